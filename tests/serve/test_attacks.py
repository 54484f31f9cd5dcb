"""What somebody who can write a book's files, or has a token, can make its server do: each was possible once.

pytest tests/serve/test_attacks.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from errata.book.signing import Signer, make_key
from errata.editing.gates import NAME
from errata.errors import BadBook
from errata.model.lm import LM
from errata.serve.jobs import Job, Jobs
from errata.serve.run import _logging
from tests.serve.served import FRANCE, serving


@pytest.fixture
def signed(lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book whose server signs, made by one that has been stopped."""
    pytest.importorskip("cryptography")
    make_key(tmp_path / "ada.pem")
    monkeypatch.setenv("ERRATA_KEY", str(tmp_path / "ada.pem"))
    with serving(lm, tmp_path) as client:
        assert client.post("/api/tags", json={"name": "one"}).status_code == 200
    return tmp_path


def plant(book: Path, **said: Any) -> str:
    """Put a job into a book's folder that nobody has sent."""
    job = asdict(Job("b" * 16, "tag", "ada", {"name": "evil", "move": False, "reason": "", "author": ""}))
    (book / "jobs" / f"{job['id']}.json").write_text(json.dumps({**job, **said}))
    return str(job["id"])


def test_a_planted_job_is_not_done_in_the_owners_name(lm: LM, signed: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = signed / "book"
    done = json.loads(next((book / "jobs").glob("*.json")).read_text())
    assert Signer(signed / "ada.pem").public
    for said in ({}, {"signature": done["signature"]}, {"signature": 7}, {"signature": "zz"}):
        id = plant(book, **said)
        with serving(lm, signed) as client:
            assert client.get(f"/api/jobs/{id}").status_code == 404
            assert [tag["name"] for tag in client.get("/api/tags").json()["tags"]] == ["one"]
    assert "is no job of this server's key" in caplog.text
    # One that was sent and not done is taken up again, and not in another book.
    request = {"name": "two", "move": False, "reason": "", "author": ""}
    job = Job("c" * 16, "tag", "ada", request)
    with serving(lm, signed) as client:
        jobs = client.app.service.jobs
        jobs._save(job)
    (signed / "other").mkdir()
    with serving(lm, signed / "other") as client:
        folder = client.app.service.book.path / "jobs"
    (folder / f"{job.id}.json").write_bytes((book / "jobs" / f"{job.id}.json").read_bytes())
    for root, names in ((signed, ["one", "two"]), (signed / "other", [])):
        with serving(lm, root) as client:
            client.app.service.jobs.stop()
            assert [tag["name"] for tag in client.get("/api/tags").json()["tags"]] == names


@pytest.mark.parametrize(
    "said",
    [
        {"created": "x"},
        {"request": []},
        {"kind": 7},
        {"kind": "shell"},
        {"id": "../../x"},
        {"evil": 1},
        {"status": None},
    ],
)
def test_a_job_that_is_none_keeps_no_server_from_starting(lm: LM, tmp_path: Path, said: dict[str, Any]) -> None:
    with serving(lm, tmp_path) as client:
        book = client.app.service.book.path
    plant(book, **said)
    (book / "jobs" / "d.json").write_text("[" * 100_000)
    with serving(lm, tmp_path) as client:
        assert client.get("/api/jobs").json()["jobs"] == []
        assert client.get("/api/history").json()["events"] == []


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links")
def test_a_server_writes_through_no_link(lm: LM, tmp_path: Path) -> None:
    victim, elsewhere = tmp_path / "victim", tmp_path / "elsewhere"
    victim.write_text("dear")
    elsewhere.mkdir()
    with serving(lm, tmp_path) as client:
        book = client.app.service.book.path
        for name in ("incoming", f"{'e' * 16}.json", f"{'e' * 16}.new"):
            (book / "jobs" / name).symlink_to(victim)
        jobs: Jobs = client.app.service.jobs
        jobs._save(Job("e" * 16, "tag", "ada", {}))
    assert victim.read_text() == "dear"
    assert not (book / "jobs" / f"{'e' * 16}.json").is_symlink()
    for how in (os.symlink, os.link):
        (book / "audit.jsonl").unlink(missing_ok=True)
        how(victim, book / "audit.jsonl")
        with pytest.raises(BadBook, match=r"audit.jsonl is (a link|another file's second name)"):
            _logging(book)
    (book / "audit.jsonl").unlink()
    (book / "jobs").rename(tmp_path / "jobs")
    (book / "jobs").symlink_to(elsewhere)
    with pytest.raises(BadBook, match="jobs is a link"), serving(lm, tmp_path):
        pass
    assert list(elsewhere.iterdir()) == []
    assert victim.read_text() == "dear"


def test_nobody_goes_round_the_gates_over_http(lm: LM, tmp_path: Path) -> None:
    with serving(lm, tmp_path) as client:
        book, asked = client.app.service.book.path, {"facts": [FRANCE], "method": "ft", "settings": {"steps": 1}}
        said = client.post("/api/edits?wait=120", json=asked).json()["job"]["result"]
        id = said["edits"][0]["id"]
        assert client.post("/api/tags", json={"name": "before"}).status_code == 200
        client.post("/api/drop", json={"ids": [id]})
        (book / NAME).write_text("norm_ratio = 0.0\n")
        before = client.get("/api/history").json()["events"]
        tried = [("restore", {"ids": [id]}), ("checkout", {"state": "before"}), ("edits", asked)]
        tried += [("edits", {**asked, "gates": gates}) for gates in ({}, {"norm_ratio": 9.0})]
        for route, body in tried:
            answer = client.post(f"/api/{route}?wait=120", json=body)
            assert answer.status_code == 422, (route, body, answer.text)
            assert "the gate norm_ratio" in answer.json()["error"]["message"]
        lights = client.post("/api/try?wait=120", json={**asked, "gates": {}}).json()
        assert [(g["gate"], g["passed"]) for g in lights["job"]["result"]["gates"]] == [("norm_ratio", False)]
        assert client.get("/api/history").json()["events"] == before


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("edits", {"facts": [FRANCE], "method": "ft", "settings": {"steps": 10**6}}),
        ("try", {"facts": [FRANCE], "method": "kne", "settings": {"m": 10**8}}),
        ("locate", {"prompt": FRANCE["prompt"], "subject": FRANCE["subject"], "settings": {"samples": 10**7}}),
    ],
)
def test_no_client_holds_the_model_for_days(client: TestClient, route: str, body: dict[str, object]) -> None:
    answer = client.post(f"/api/{route}", json=body)
    assert answer.status_code == 400
    assert "is more than a server takes from a client: at most 10,000" in answer.json()["error"]["message"]


def test_a_page_shows_what_an_edit_says_of_its_gates_and_does_not_fail(
    client: TestClient, write: Callable[..., str]
) -> None:
    """A report is its author's word: numbers in it may be text."""
    from jinja2 import Environment

    id = write()
    assert client.get(f"/edit/{id}", headers={"accept": "text/html"}).status_code == 200
    source = Path(__file__).parents[2] / "src" / "errata" / "serve" / "pages" / "edit.html"
    line = next(line for line in source.read_text(encoding="utf-8").splitlines() if "for gate in" in line)
    drawn = Environment(autoescape=True).from_string(line.partition("</ul>")[0])
    gates = [
        {"gate": "<b>", "value": value, "asked": asked} for value, asked in (("evil", 1), (None, 0), (0.5, 2), ([], 1))
    ]
    text = drawn.render(report={"gates": gates})
    assert "<b>" not in text
    assert [words in text for words in ("nothing to ask", "no finite number", "0.5")] == [True, True, True]
