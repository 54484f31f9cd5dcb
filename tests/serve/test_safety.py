"""Who is let in, from where, how much, and that nothing of a client is run, opened or fetched.

pytest tests/serve/test_safety.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from errata.errors import BadFile, InputError
from errata.model.lm import LM
from errata.serve.auth import Gatekeeper, NotLetIn
from errata.serve.run import Address, check
from tests.serve.served import FRANCE, HERE, READER, WRITER, serving

READS = {"authorization": f"Bearer {READER}"}


def routes(client: TestClient) -> list[tuple[str, str]]:
    """Return every method and path of the API."""
    schema = client.get("/openapi.json").json()
    return [(method.upper(), path) for path, methods in schema["paths"].items() for method in methods]


def test_everything_but_health_needs_a_token(client: TestClient) -> None:
    found = routes(client)
    assert len(found) > 25
    for method, path in found:
        answer = client.request(method, path, headers={"authorization": "Bearer nobody"})
        assert answer.status_code in ((200,) if path == "/health" else (401, 429)), (method, path)
    bare = TestClient(client.app, base_url=HERE)
    for path in ("/", "/book", "/where", "/import", "/bench", "/api", "/edit/x"):
        assert bare.get(path).status_code in (401, 429), path
    assert bare.get("/health").status_code == 200


def test_who_may_only_read_changes_nothing(client: TestClient) -> None:
    changing = ("edits", "drop", "restore", "tags", "untag", "checkout", "check")
    bodies = {
        "edits": {"facts": [FRANCE]},
        "tags": {"name": "a"},
        "untag": {"name": "a"},
        "checkout": {"state": "base"},
        "check": {},
    }
    for name in changing:
        answer = client.post(f"/api/{name}", json=bodies.get(name, {"ids": ["abcdef"]}), headers=READS)
        assert answer.status_code == 403, name
    assert client.post("/api/jobs/x/cancel", headers=READS).status_code == 403
    assert client.get("/api/edits", headers=READS).json() == {"edits": [], "version": 0}
    assert client.post("/api/try", json={"facts": [FRANCE], "settings": {"steps": 3}}, headers=READS).status_code == 200


def studio(client: TestClient) -> TestClient:
    """Return a browser that has followed the link."""
    browser = TestClient(client.app, base_url=HERE)
    key = client.app.service.gatekeeper.link()
    assert browser.get(f"/open?key={key}", follow_redirects=False).status_code == 303
    again = TestClient(client.app, base_url=HERE).get(f"/open?key={key}")
    assert again.status_code == 401, "the link is good once"
    return browser


def test_a_page_of_another_origin_changes_nothing(client: TestClient) -> None:
    browser = studio(client)
    cookie = browser.cookies.jar.__iter__().__next__()
    assert cookie.has_nonstandard_attr("HttpOnly")
    assert cookie.get_nonstandard_attr("SameSite", "").lower() == "strict"
    own = {"origin": HERE, "x-errata": "studio"}
    tried = [
        {}, {"x-errata": "studio"}, {"origin": HERE}, {**own, "origin": "http://127.0.0.1:9999"},
        {**own, "origin": "null"}, {**own, "sec-fetch-site": "cross-site"},
    ]  # fmt: skip
    for headers in tried:
        assert browser.post("/api/tags", json={"name": "mine"}, headers=headers).status_code == 403, headers
    assert browser.post("/api/tags", json={"name": "mine"}, headers=own).status_code == 200
    assert [tag["name"] for tag in client.get("/api/tags").json()["tags"]] == ["mine"]


def test_a_cookie_is_good_after_a_restart_and_not_when_altered(lm: LM, tmp_path: Path) -> None:
    with serving(lm, tmp_path) as client:
        cookies = dict(studio(client).cookies)
    with serving(lm, tmp_path) as client:
        browser = TestClient(client.app, base_url=HERE, cookies=cookies)
        assert browser.get("/api/edits").status_code == 200
        altered = {name: value.replace("write", "wrote", 1) for name, value in cookies.items()}
        assert TestClient(client.app, base_url=HERE, cookies=altered).get("/api/edits").status_code == 401


def test_every_page_forbids_the_browser_what_is_not_from_here(client: TestClient) -> None:
    for path in ("/", "/health", "/nothing", "/api/edits"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_another_name_a_large_body_and_too_many_are_refused(lm: LM, tmp_path: Path) -> None:
    with serving(lm, tmp_path, largest=1000, rate=20.0) as client:
        assert client.get("/health", headers={"host": "evil.example"}).status_code == 421
        assert client.post("/api/preview", json={"text": "x" * 2000}).status_code == 413
        chunks = (b"x" * 400 for _ in range(5))
        assert client.post("/api/preview", content=chunks).status_code == 413
        statuses = [client.get("/health").status_code for _ in range(60)]
        assert statuses[0] == 200
        assert statuses[-1] == 429


def test_no_file_of_the_server_can_be_named(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jsonl"
    secret.write_text('{"prompt": "a"}')
    asked = [
        {"settings": {"corpus": str(secret)}}, {"gates": {"sentinels": str(secret), "sentinel": 1.0}},
        {"gates": {"text": str(secret), "perplexity": 1.0}},
    ]  # fmt: skip
    for more in asked:
        for route in ("/api/edits", "/api/try"):
            answer = client.post(route, json={"facts": [FRANCE], **more})
            assert answer.status_code == 400, more
            assert "clients cannot choose" in answer.json()["error"]["message"]
    for name in ("..%2f..%2fauth.py", "%2e%2e/app.py", "auth.py"):
        assert client.get(f"/static/{name}").status_code in (400, 404)


def test_a_token_file_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    made = Gatekeeper(tmp_path / "deep" / "token")
    assert made.made
    text = (tmp_path / "deep" / "token").read_text()
    assert text.count("\n") == 1
    assert (tmp_path / "deep" / "token").stat().st_mode & 0o777 == 0o600
    assert Gatekeeper(made.path).by_token(f"Bearer {text.strip()}").scope == "write"
    with pytest.raises(NotLetIn):
        made.by_token("Bearer ")


@pytest.mark.parametrize("text", ["short", f"{'a' * 20} admin", f"{'a' * 20} read only", f"{'a' * 20} write b c d", ""])
def test_a_bad_token_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadFile, match="token"):
        Gatekeeper(path)


@pytest.mark.skipif(os.name != "posix", reason="no modes")
def test_a_token_file_that_others_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{WRITER}\n")
    path.chmod(0o644)
    with pytest.raises(BadFile, match="chmod 600"):
        Gatekeeper(path)


def test_other_addresses_need_a_token_file_that_was_named(tmp_path: Path) -> None:
    check(Address("127.0.0.1", 0, tmp_path / "t", False))
    check(Address("0.0.0.0", 0, tmp_path / "t", True))
    with pytest.raises(InputError, match="--token-file"):
        check(Address("0.0.0.0", 0, tmp_path / "t", False))


def test_an_open_door_is_not_told_by_time_or_tries(client: TestClient) -> None:
    statuses = [client.get("/api/edits", headers={"authorization": f"Bearer {n}"}).status_code for n in range(20)]
    assert set(statuses) == {401, 429}
    assert client.get("/api/edits").status_code == 200, "who has a token is let in all the same"


def test_each_change_leaves_a_line_with_who(client: TestClient, write: Callable[..., str], caplog) -> None:
    with caplog.at_level("INFO", logger="errata.audit"):
        write()
    lines = [record.getMessage() for record in caplog.records if record.name == "errata.audit"]
    assert any('"who": "ada"' in line and '"what": "write"' in line for line in lines)
    assert client.get("/api/edits").json()["edits"][0]["author"] == "ada"
