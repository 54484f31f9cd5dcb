"""The studio in a real browser: ask, correct, see the neighbours, undo; two tabs; a kill; scripts in every field.

make test-browser, or pytest -m browser tests/browser; needs playwright and a chromium ($CHROMIUM, or on the path)
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")
expect = sync_api.expect
expect.set_options(timeout=30_000)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here"),
    # Playwright leaves its pipe to be collected.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]
RUN = "import sys; from errata.cli import main; sys.exit(main(sys.argv[1:]))"
EVIL = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


class Served:
    """A server in a process of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.book, self.log, self.port = folder / "book", folder / "log", 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", RUN, "serve", "--book", str(self.book), "--port", str(self.port)]
        with open(self.log, "w") as log:
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        end = time.monotonic() + 60
        while "/open?key=" not in (text := self.log.read_text()):
            assert self.process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.05)
        self.link = re.findall(r"http://\S+/open\?key=\S+", text)[0]
        self.address = self.link.partition("/open")[0]
        self.port = int(self.address.rpartition(":")[2])

    def kill(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        return self.process.wait(40)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    started = Served(tmp_path)
    yield started
    if started.process.poll() is None:
        started.kill()


@pytest.fixture
def context(browser: Any, served: Served) -> Iterator[Any]:
    """Return a browser that has followed the link, and fail for whatever its console complains of."""
    opened = browser.new_context(viewport={"width": 1200, "height": 800})
    faults: list[str] = []
    opened.on("weberror", lambda error: faults.append(str(error.error)))
    opened.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    page = opened.new_page()
    page.goto(served.link)
    page.close()
    yield opened
    opened.close()
    assert not faults


def correct(page: Any, target: str) -> None:
    """Choose what the model says now, give the right word, and keep it."""
    page.click("#ask button.main")
    page.click("article.right .word >> nth=0")
    expect(page.locator("#fact [name=subject]")).to_have_value("France")
    page.fill("#fact [name=target]", target)
    page.click("#fact button.main")
    page.click("#keep")
    page.wait_for_selector("#undo")


def said(page: Any, side: str) -> str:
    return str(page.inner_text(f"article.answer{side} .said")).removeprefix("The capital of France is").strip()


def test_asked_corrected_seen_and_undone(context: Any, served: Served) -> None:
    page = context.new_page()
    page.goto(f"{served.address}/?prompt=The+capital+of+France+is")
    page.wait_for_selector("article.answer")
    assert said(page, ".right") == "Paris."
    page.click("article.right .word >> nth=0")
    expect(page.locator("#fact [name=subject]")).to_have_value("France")
    page.fill("#fact [name=target]", "Lyon")
    page.fill("#fact [name=reason]", "an exercise")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#keep")
    found = page.locator("#tried tbody tr td:first-child").all_inner_texts()
    kinds = [kind.removesuffix(" (made)") for kind in found]
    assert {"the fact", "in other words", "a neighbour"} <= set(kinds)
    assert page.locator("#tried .light.on").count() >= 3
    page.click("#keep")
    page.wait_for_selector("#undo")
    expect(page.locator("article.right .said")).to_contain_text("Lyon")
    assert said(page, ".right") == "Lyon."
    assert said(page, ":not(.right)") == "Paris."
    assert page.locator("article.right .word.other").all_inner_texts() == [" Lyon."]
    page.click("#undo")
    expect(page.locator("article.right .said")).to_contain_text("Paris")
    page.goto(f"{served.address}/book")
    assert [text.lower() for text in page.locator(".timeline .kind").all_inner_texts()] == ["dropped", "wrote"]
    assert "an exercise" in page.inner_text(".timeline")
    page.click("text=Restore")
    page.click("#do")
    page.wait_for_selector(".timeline .event:nth-child(3)")
    page.goto(f"{served.address}/?prompt=The+capital+of+France+is&b=primer@1")
    page.wait_for_selector("article.answer")
    assert said(page, ".right") == "Lyon.", "the link opens the state it names"


def test_two_tabs_do_not_overwrite_each_other(context: Any, served: Served) -> None:
    one, two = context.new_page(), context.new_page()
    for page in (one, two):
        page.goto(f"{served.address}/book")
    one.fill("#tag [name=name]", "first")
    one.click("text=Tag it")
    one.wait_for_selector(".timeline .event.tag")
    two.fill("#tag [name=name]", "second")
    two.click("text=Tag it")
    two.wait_for_selector("#say .bad")
    assert "has changed since you looked" in two.inner_text("#say")
    two.get_by_role("button", name="Look again").click()
    two.wait_for_selector(".timeline >> text=first")
    two.fill("#tag [name=name]", "second")
    two.click("text=Tag it")
    two.wait_for_selector(".timeline >> text=second")
    assert two.locator(".timeline .event").count() == 2


def test_a_killed_server_comes_back_as_it_was(context: Any, served: Served) -> None:
    page = context.new_page()
    page.goto(served.address)
    correct(page, "Lyon")
    served.kill()
    page.click("#ask button.main")
    page.wait_for_selector("#say .bad")
    assert "does not answer" in page.inner_text("#say")
    served.start()
    page.click("#ask button.main")
    expect(page.locator("article.right .said")).to_contain_text("Lyon")
    assert served.kill(signal.SIGTERM) == 0, "asked to stop, it stops by itself"
    assert "everything that was reported stands" in served.log.read_text()


def test_scripts_in_every_field_are_only_text(context: Any, served: Served) -> None:
    page = context.new_page()
    page.goto(served.address)
    page.fill("#prompt", f"{EVIL} The capital of France is")
    page.click("#ask button.main")
    page.click("article.right .fix")
    expect(page.locator("#fact [name=subject]")).not_to_have_value("")
    page.fill("#fact [name=subject]", "France")
    page.fill("#fact [name=target]", "Lyon")
    page.fill("#fact [name=reason]", EVIL)
    page.click("#fact button.main")
    page.click("#keep")
    page.wait_for_selector("#undo")
    for path in ("/book", "/edit/{}", "/import", f"/where?subject={EVIL}"):
        page.goto(served.address + "/book")
        id = page.get_attribute(".timeline [data-id]", "data-id")
        page.goto(served.address + path.format(id))
        page.wait_for_timeout(200)
        assert page.title() != "run"
        assert page.locator("main img[src=x]").count() == 0
    page.goto(served.address + "/import")
    page.fill(
        "#facts",
        f'{{"prompt": "{EVIL.replace(chr(34), chr(39))} of France is", "subject": "France", "target": "Lyon"}}\n{EVIL}',
    )
    page.click("#text button.main")
    page.wait_for_selector("#preview .bad")
    assert page.title() != "run"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_phone(context: Any, served: Served, browser: Any, scheme: str) -> None:
    page = context.new_page()
    page.goto(served.address)
    correct(page, "Lyon")
    state = context.storage_state()
    phone = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme, storage_state=state)
    page = phone.new_page()
    for path in (
        "/?prompt=The+capital+of+France+is",
        "/book",
        "/where?prompt=The+capital+of+France+is",
        "/import",
        "/bench",
        "/api",
    ):
        page.goto(served.address + path)
        page.wait_for_timeout(1500 if "?" in path else 100)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        unnamed = page.locator("input:visible, select:visible, textarea:visible").evaluate_all(
            "all => all.filter(one => !one.labels.length && !one.ariaLabel).map(one => one.outerHTML)"
        )
        assert unnamed == [], "what a screen reader could not name"
    phone.close()


def test_many_facts_are_looked_at_and_written(context: Any, served: Served) -> None:
    page = context.new_page()
    page.goto(f"{served.address}/import")
    rows = [f'{{"prompt": "The capital of {c} is", "subject": "{c}", "target": "Lyon"}}' for c in ("Italy", "Spain")]
    page.fill("#facts", "\n".join([*rows, "nonsense"]))
    page.click("#text button.main")
    page.wait_for_selector("#write:visible")
    assert "1 bad row" in page.inner_text("#preview")
    page.select_option("#write [name=method]", "rome")
    page.click("#write button.main")
    page.wait_for_selector("#job >> text=2 facts written")


def test_the_keyboard_is_enough(context: Any, served: Served) -> None:
    page = context.new_page()
    page.goto(served.address)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#prompt")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("article.right .word")
    page.focus("article.right .word >> nth=0")
    page.keyboard.press("Enter")
    expect(page.locator("#fact [name=target]")).to_be_focused()
