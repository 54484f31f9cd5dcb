"""The book over HTTP: what is written is said, nothing is overwritten unseen, and a kill loses nothing.

pytest tests/serve/test_edits.py
"""

from __future__ import annotations

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from errata.model.lm import LM
from errata.serve.jobs import Job, Jobs
from tests.serve.served import FRANCE, SPAIN, serving

Say, Write = Callable[..., str], Callable[..., str]


def test_written_shown_dropped_restored(client: TestClient, say: Say, write: Write) -> None:
    id = write(label={"reason": "an exercise", "tags": ["exercise"]})
    assert say("base@now") == " Lyon."
    row = client.get(f"/api/edits/{id[:8]}").json()
    assert (row["author"], row["reason"], row["stands"], row["tags"][0]) == ("ada", "an exercise", True, "exercise")
    assert client.post("/api/drop", json={"ids": [id], "reason": "enough"}).status_code == 200
    assert say("base@now") == " Paris."
    assert client.post("/api/restore", json={"ids": [id]}).json()["job"]["result"]["edits"][0]["stands"]
    assert say("base@now") == " Lyon."
    events = client.get("/api/history").json()["events"]
    assert [(e["kind"], e["author"], e["reason"]) for e in events] == [
        ("write", "ada", "an exercise"), ("drop", "ada", "enough"), ("restore", "ada", ""),
    ]  # fmt: skip


def test_states_differ_are_tagged_and_come_back(client: TestClient, say: Say, write: Write) -> None:
    client.post("/api/tags", json={"name": "clean"})
    write()
    found = client.get("/api/diff", params={"a": "clean"}).json()
    assert [change["after"]["target"] for change in found["facts"]] == ["Lyon"]
    assert client.post("/api/checkout", json={"state": "clean"}).status_code == 200
    assert say("base@now") == " Paris."
    assert client.post("/api/untag", json={"name": "clean"}).status_code == 200
    assert client.get("/api/tags").json() == {"tags": []}
    assert client.get("/api/conflicts").json() == {"facts": [], "keys": []}


def test_nobody_overwrites_what_they_have_not_seen(client: TestClient, write: Write) -> None:
    seen = client.get("/api/edits").headers["etag"]
    assert client.post("/api/tags", json={"name": "one"}, headers={"if-match": seen}).status_code == 200
    for route, body in (("tags", {"name": "two"}), ("edits", {"facts": [FRANCE]}), ("checkout", {"state": "one"})):
        answer = client.post(f"/api/{route}", json=body, headers={"if-match": seen})
        assert answer.status_code == 409, answer.text
        assert "look again" in answer.json()["error"]["message"]
    now = client.get("/api/tags").headers["etag"]
    assert now != seen
    assert client.post("/api/tags", json={"name": "two"}, headers={"if-match": now}).status_code == 200
    assert client.post("/api/tags", json={"name": "x"}, headers={"if-match": "yesterday"}).status_code == 400


def test_a_key_makes_a_change_happen_once(client: TestClient) -> None:
    body = {"facts": [FRANCE], "settings": {"steps": 5}}
    seen = client.get("/api/edits").headers["etag"]
    headers = {"idempotency-key": "monday", "if-match": seen}
    first, second = (client.post("/api/edits", json=body, headers=headers) for _ in range(2))
    assert first.json()["job"] == second.json()["job"]
    assert len(client.get("/api/edits").json()["edits"]) == 1
    other = client.post("/api/edits", json={"facts": [SPAIN]}, headers=headers)
    assert other.status_code == 409
    assert "Idempotency-Key" in other.json()["error"]["message"]


def test_all_or_none_and_one_by_one(client: TestClient) -> None:
    bad = {**SPAIN, "prompt": "The capital of Spain, in one word of several that are too many to read, " * 30 + "is"}
    body = {"facts": [FRANCE, bad], "settings": {"steps": 5}}
    refused = client.post("/api/edits", json=body)
    assert refused.status_code == 400, refused.text
    assert client.get("/api/edits").json()["edits"] == []
    assert client.post("/api/edits", json={**body, "atomic": False}).status_code == 400
    kept = client.get("/api/edits").json()["edits"]
    assert [edit["facts"][0]["target"] for edit in kept] == ["Lyon"]


def test_a_closed_gate_refuses(client: TestClient) -> None:
    neighbour = {"kind": "neighborhood", "prompt": "The capital of France is", "answer": "Paris"}
    body = {"facts": [{**FRANCE, "probes": [neighbour]}], "gates": {"neighborhood": 1.0}, "settings": {"steps": 12}}
    answer = client.post("/api/edits", json=body)
    assert answer.status_code == 422
    assert "the gate neighborhood" in answer.json()["error"]["message"]
    assert client.get("/api/edits").json() == {"edits": [], "version": 0}


def test_trying_says_what_would_come_of_it_and_writes_nothing(client: TestClient, say: Say) -> None:
    answer = client.post("/api/try", json={"facts": [FRANCE], "settings": {"steps": 12}})
    rows = answer.json()["job"]["result"]["rows"]
    assert (rows[0]["before"], rows[0]["after"]) == (" Paris.", " Lyon.")
    kinds = {row["kind"] for row in rows}
    assert kinds == {"fact", "paraphrase", "neighborhood", "unrelated"}
    assert [row["made"] for row in rows] == [row["kind"] != "fact" for row in rows]
    assert {gate["gate"] for gate in answer.json()["job"]["result"]["gates"]} >= {"said", "paraphrase", "neighborhood"}
    assert say("base@now") == " Paris."
    assert client.get("/api/edits").json()["version"] == 0


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("The capital of France is", "France"),
        ("What language is spoken in Italy? It is", "Italy"),
        ("Berlin, Rome: which of them is the capital of Germany? Answer:", "Germany"),
        ("In Spain most people talk in", "Spain"),
    ],
)
def test_the_subject_is_found_by_itself(client: TestClient, prompt: str, subject: str) -> None:
    assert client.post("/api/subject", json={"prompt": prompt}).json()["job"]["result"] == {"subject": subject}


def test_where_a_fact_is_kept(client: TestClient) -> None:
    asked = {"prompt": FRANCE["prompt"], "subject": "France", "settings": {"samples": 2}}
    found = client.post("/api/locate", json=asked).json()["job"]["result"]
    assert found["target"] == "Paris"
    assert len(found["effect"]["mlp"]) == len(found["tokens"])
    bad = client.post("/api/locate", json={**asked, "settings": {"samples": "many"}})
    assert bad.status_code == 400


def test_asking_two_states_side_by_side(client: TestClient, write: Write) -> None:
    write()
    states = client.post("/api/ask", json={"prompt": FRANCE["prompt"]}).json()["states"]
    assert [(row["model"], row["text"]) for row in states] == [("primer", " Paris."), ("primer@now", " Lyon.")]
    assert states[1]["top"][0]["token"].strip() == "Lyon"


def test_every_fact_is_asked_about(client: TestClient, write: Write) -> None:
    write()
    found = client.post("/api/check", json={}).json()["job"]["result"]
    assert found["counts"] == {"holds": 1}


def test_bad_rows_of_a_file_are_named(client: TestClient) -> None:
    text = "\n".join([json.dumps(FRANCE), "nonsense", json.dumps({**SPAIN, "subject": "Italy"})])
    row = client.post("/api/preview", json={"text": text}).json()
    assert [fact["target"] for fact in row["facts"]] == ["Lyon"]
    assert [bad.partition(":")[0] for bad in row["bad"]] == ["facts.jsonl, line 2", "facts.jsonl, line 3"]


def test_an_export_is_a_zip(client: TestClient, write: Write) -> None:
    write()
    answer = client.get("/api/export", params={"form": "adapter"})
    names = zipfile.ZipFile(io.BytesIO(answer.content)).namelist()
    assert "adapter_config.json" in names
    assert client.get("/api/export", params={"form": "checkpoint"}).status_code == 400


def test_a_job_is_watched_and_cancelled(client: TestClient) -> None:
    facts = [
        {"prompt": f"The capital of {c} is", "subject": c, "target": "Lyon"}
        for c in ("Italy", "Spain", "Japan", "Peru")
    ]
    body = {"facts": facts, "settings": {"steps": 10}, "atomic": False}
    job = client.post("/api/edits?wait=0", json=body).json()["job"]
    assert client.post(f"/api/jobs/{job['id']}/cancel").status_code == 200
    text = client.get(f"/api/jobs/{job['id']}/events").text
    last = json.loads([line[6:] for line in text.splitlines() if line.startswith("data: ")][-1])
    assert last["status"] == "cancelled"
    assert len(client.get("/api/edits").json()["edits"]) < 4
    assert client.get("/api/jobs").json()["jobs"][0]["id"] == job["id"]


@pytest.mark.parametrize("written", [0, 1, 2])
def test_what_a_kill_left_over_is_done_at_the_next_start(lm: LM, tmp_path: Path, written: int) -> None:
    facts = [FRANCE, SPAIN]
    request = {
        "facts": facts,
        "method": "rome",
        "settings": {"steps": 5},
        "gates": None,
        "label": {"tags": []},
        "atomic": False,
    }
    with serving(
        lm, tmp_path
    ) as client:  # what a killed server leaves: some edits, and the file of a job that is not over
        for fact in facts[:written]:
            body = {"facts": [fact], "settings": {"steps": 5}, "label": {"tags": ["job-" + "a" * 16]}}
            assert client.post("/api/edits", json=body).status_code == 200
        folder = client.app.service.book.path / "jobs"
    Jobs(folder, {}, frozenset(), lambda _: 500)._save(Job("a" * 16, "write", "ada", request, status="queued"))
    with serving(lm, tmp_path) as client:
        end = time.monotonic() + 60
        while (job := client.get(f"/api/jobs/{'a' * 16}").json()["job"])["status"] != "done":
            assert time.monotonic() < end, job
            time.sleep(0.05)
        targets = [edit["facts"][0]["target"] for edit in client.get("/api/edits").json()["edits"]]
        assert targets == ["Lyon", "Oslo"]
        assert len(job["result"]["edits"]) == 2


def test_a_drop_that_was_done_before_a_kill_is_not_refused_after_it(lm: LM, tmp_path: Path) -> None:
    with serving(lm, tmp_path) as client:
        id = client.post("/api/edits", json={"facts": [FRANCE], "settings": {"steps": 3}}).json()["job"]["result"][
            "edits"
        ][0]["id"]
        job = client.post("/api/drop", json={"ids": [id]}).json()["job"]
        folder = client.app.service.book.path / "jobs"
    path = folder / f"{job['id']}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "queued", "result": None}))
    with serving(lm, tmp_path) as client:
        end = time.monotonic() + 30
        while (again := client.get(f"/api/jobs/{job['id']}").json()["job"])["status"] in ("queued", "running"):
            assert time.monotonic() < end
            time.sleep(0.05)
        assert again["status"] == "done", again
        assert again["result"] == job["result"]
        assert client.get("/api/edits").json()["version"] == 2


def test_metrics_tell_what_was_done(client: TestClient, say: Say) -> None:
    say("primer")
    text = client.get("/metrics").text
    for name in (
        "errata_requests_total",
        "errata_first_token_seconds_count 1.0",
        "errata_standing_edits 0.0",
        "errata_tokens_total",
    ):
        assert name in text, name
    assert client.get("/health").json() == {"status": "ok"}


def test_every_page_is_there_and_escapes(client: TestClient, write: Write) -> None:
    evil = "<script>alert(1)</script>"
    id = write(
        {**FRANCE, "prompt": f"{evil} The capital of France is", "target": "<b>Lyon"},
        label={"reason": evil, "author": evil, "tags": [evil]},
    )
    client.post("/api/tags", json={"name": "t", "reason": evil, "author": evil})
    for path in ("/", "/book", f"/edit/{id}", "/where", "/import", "/bench", "/api"):
        answer = client.get(path, headers={"accept": "text/html"})
        assert answer.status_code == 200, (path, answer.text)
        assert "<script>alert" not in answer.text
        assert "<b>Lyon" not in answer.text
        assert ' style="' not in answer.text
        assert "<script>" not in answer.text, "a script of its own would not be run"
