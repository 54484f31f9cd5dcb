"""Judges: a real server on the loopback, a local model, and what stands in the rows afterwards.

pytest tests/evaluate/test_judge.py
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from errata.bench.run import Plan, Run
from errata.data.cases import parse
from errata.errors import BadConfig, ErrataError
from errata.evaluate.judge import PROMPT, EndpointJudge, LocalJudge, judged, named, read_verdict
from errata.evaluate.scorer import Scorer
from errata.evaluate.summary import dump_row, estimate, read_rows
from errata.model.lm import LM
from errata.model.loading import load


def row(case: str, said: str | None, expected: str = "Norland", probe: str = "edit") -> dict[str, Any]:
    scores = {"said": None if said is None else 0.0}
    return {
        "case": case,
        "probe": probe,
        "prompt": f"{case} lives in",
        "expected": expected,
        "said": said,
        "scores": scores,
    }


ROWS = [row("Bo", "the North: Norland"), row("Cy", "Sudland"), row("Di", None), row("Eve", "west", "", "unrelated")]


class Server(ThreadingHTTPServer):
    """Answers with what `reply` says; remembers what it was asked."""

    def __init__(self, reply: Callable[[dict[str, Any]], Any]) -> None:
        self.reply, self.asked = reply, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Server)
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        server.asked.append((self.path, dict(self.headers), body))
        given = server.reply(body)
        status, headers, data = given if isinstance(given, tuple) else (200, {}, given)
        text = json.dumps(completion(data)).encode() if isinstance(data, str) else data
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST

    def log_message(self, *args: Any) -> None:
        pass


def completion(text: str) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[dict[str, Any]], Any]], Server]]:
    running: list[Server] = []

    def start(reply: Callable[[dict[str, Any]], Any]) -> Server:
        server = Server(reply)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def lm() -> LM:
    return load("primer")


Serve = Callable[[Callable[[dict[str, Any]], Any]], Server]


def fair(body: dict[str, Any]) -> str:
    return "Correct." if "Norland\nDoes" in body["messages"][0]["content"] else "incorrect"


def test_an_endpoint_judges_and_stands_in_the_row(serve: Serve) -> None:
    server = serve(fair)
    judge = EndpointJudge(server.url, "sage", key="secret")
    rows = judged(ROWS, judge)
    assert [row["scores"].get("judged") for row in rows] == [1, 0, None, None]
    assert rows[0]["judge"] == {"name": "sage at 127.0.0.1", "prompt": PROMPT}
    assert "judge" not in rows[2]
    assert "judge" not in rows[3]
    assert [row["scores"].get("said") for row in rows] == [row["scores"].get("said") for row in ROWS]
    assert "judged" not in ROWS[0]["scores"]  # the rows given are left alone
    assert estimate(rows, "judged").mean == 0.5
    path, headers, body = server.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("sage", 0)
    assert body["messages"][0]["content"].startswith("Question: Bo lives in\nExpected answer: Norland\n")
    assert "secret" not in "".join(map(dump_row, rows)) + repr(judge)


def test_all_spellings_are_shown_and_answers_cannot_fill_the_template(serve: Serve) -> None:
    server = serve(fair)
    tricky = {**ROWS[0], "alternatives": ["the North"], "said": "{expected} {prompt}"}
    judged([tricky], EndpointJudge(server.url, "sage"))
    asked = server.asked[0][2]["messages"][0]["content"]
    assert "Expected answer: Norland or the North\n" in asked
    assert "Given answer: {expected} {prompt}\n" in asked
    assert "Authorization" not in server.asked[0][1]


def test_equal_questions_are_asked_once(serve: Serve) -> None:
    server = serve(fair)
    judged(ROWS * 3, EndpointJudge(server.url, "sage"))
    assert len(server.asked) == 2


def test_no_verdict_is_no_score(serve: Serve) -> None:
    rows = judged(ROWS, EndpointJudge(serve(lambda body: "It depends.").url, "sage"))
    assert rows[0]["scores"]["judged"] is None
    assert rows[0]["judge"]["name"] == "sage at 127.0.0.1"


def test_a_busy_endpoint_is_asked_again(serve: Serve) -> None:
    given: Iterator[Any] = iter([(429, {}, b"slow down"), (503, {}, b""), "correct"])
    assert EndpointJudge(serve(lambda body: next(given)).url, "sage").verdicts(["?"]) == [True]


def test_a_refusal_is_final_and_names_who_refused(serve: Serve) -> None:
    server = serve(lambda body: (401, {}, b"no key"))
    with pytest.raises(ErrataError, match=r"sage at 127\.0\.0\.1 does not answer \(401"):
        EndpointJudge(server.url, "sage").verdicts(["?"])
    assert len(server.asked) == 1


def test_the_key_goes_nowhere_else(serve: Serve) -> None:
    other = serve(lambda body: "correct")
    server = serve(lambda body: (302, {"Location": other.url}, b""))
    with pytest.raises(ErrataError, match="302"):
        EndpointJudge(server.url, "sage", key="secret").verdicts(["?"])
    assert not other.asked


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_something_else_than_a_completion_is_an_error(answer: bytes, serve: Serve) -> None:
    with pytest.raises(ErrataError, match="something else than a chat completion"):
        EndpointJudge(serve(lambda body: (200, {}, answer)).url, "sage").verdicts(["?"])


def test_a_silent_answer_is_no_verdict(serve: Serve) -> None:
    answer = json.dumps({"choices": [{"message": {"content": None}}]}).encode()
    assert EndpointJudge(serve(lambda body: (200, {}, answer)).url, "sage").verdicts(["?"]) == [None]


def test_nobody_there(serve: Serve) -> None:
    server = serve(fair)
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(ErrataError, match="does not answer"):
        EndpointJudge(url, "sage", attempts=2, timeout=2).verdicts(["?"])


def test_what_cannot_work_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadConfig, match="http"):
        EndpointJudge("file:///etc/passwd", "sage")
    with pytest.raises(BadConfig, match=r"lacks \{said\}"):
        EndpointJudge("http://127.0.0.1", "sage", prompt="{prompt} {expected}?")


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("correct", True), ("Correct.", True), ("**correct**", True), ('"incorrect"', False), ("INCORRECT", False),
        ("Yes, it does", True), ("No.", False), ("no", False), ("wrong", False), ("The verdict: incorrect", False),
        ("", None), ("Nobody knows", None), ("I cannot say", None),
    ],
)  # fmt: skip
def test_reading_a_verdict(reply: str, verdict: bool | None) -> None:
    assert read_verdict(reply) is verdict


def test_rules_judge_without_a_model() -> None:
    said = ["Norland", "the Norland!", "It is Norland.", "Norlander", "", "no."]
    rows = [row("Bo", text) for text in said] + [{**row("Cy", "North"), "alternatives": ["the north"]}]
    verdicts = {rule: [r["scores"]["judged"] for r in judged(rows, named(rule))] for rule in ("exact", "contains")}
    assert verdicts["exact"] == [1, 1, 0, 0, 0, 0, 1]
    assert verdicts["contains"] == [1, 1, 1, 0, 0, 0, 1]
    assert judged(ROWS, named("exact"))[0]["judge"] == {"name": "exact", "prompt": ""}
    sign = {**row("Di", "+"), "expected": "+"}  # nothing is left of it once it is normalised
    assert [r["scores"]["judged"] for r in judged([sign, {**sign, "said": "-"}], named("exact"))] == [1, 0]


def test_a_judge_is_named_on_the_command_line(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_JUDGE_KEY", "secret")
    listing = json.dumps({"data": [{"id": "sage"}]}).encode()
    server = serve(lambda body: fair(body) if body else (200, {}, listing))
    for spec in (f"{server.url}#sage", server.url):
        judge = named(spec)
        assert judge.name == "sage at 127.0.0.1"
        assert [r["scores"].get("judged") for r in judged(ROWS, judge)] == [1, 0, None, None]
    assert {headers.get("Authorization") for _, headers, _ in server.asked} == {"Bearer secret"}
    assert [path for path, _, body in server.asked if not body] == ["/v1/models"]
    assert named("model:primer").name.startswith("primer (")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("contians", "Did you mean contains"), ("model:", "no judge"), ("ftp://x", "no judge"),
        ("http://me:secret@127.0.0.1/v1#sage", "ERRATA_JUDGE_KEY"),
    ],
)  # fmt: skip
def test_a_judge_that_is_none_is_refused(spec: str, why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        named(spec)


@pytest.mark.parametrize(
    ("answer", "count"), [(b"<html>", 0), (b"{}", 0), (b'{"data": [{"id": "a"}, {"id": "b"}]}', 2)]
)
def test_several_models_are_a_choice_for_the_user(answer: bytes, count: int, serve: Serve) -> None:
    with pytest.raises(BadConfig, match=f"has {count} models"):
        named(serve(lambda body: (200, {}, answer)).url)


def test_a_run_with_a_judge_says_who_and_changes_no_other_score(serve: Serve, lm: LM, tmp_path: Path) -> None:
    server = serve(lambda body: "correct" if "Given answer: Paris" in body["messages"][0]["content"] else "incorrect")
    cases = list(parse("primer:2", seed=3))
    plan = Plan(method="ft", options={"steps": 3}, cases="primer:2", edits=2, checkpoints=(1,))
    alone = Run(plan, lm, cases, tmp_path / "alone").go()
    both = Run(replace(plan, judge=f"{server.url}#sage"), lm, cases, tmp_path / "judged").go()
    rows = read_rows(tmp_path / "judged" / "rows.jsonl")
    seen = [row for row in rows if "judge" in row]
    assert {row["judge"]["name"] for row in seen} == {"sage at 127.0.0.1"}
    assert all(row["judge"]["prompt"] == PROMPT for row in seen)
    assert {row["probe"].partition(".")[0] for row in seen} == {"edit", "paraphrase", "portability"}
    asked = server.asked[0][2]["messages"][0]["content"]
    assert asked.startswith(f"Question: {cases[0].prompt}\n")
    for row in rows:
        row.pop("judge", None)
        row["scores"].pop("judged", None)
    assert rows == read_rows(tmp_path / "alone" / "rows.jsonl")
    for point, other in zip(both["checkpoints"], alone["checkpoints"], strict=True):
        more = {"judged", "judged_paraphrase", *(n for n in point["metrics"] if n.startswith("portability_judged"))}
        assert set(point["metrics"]) - set(other["metrics"]) <= more
        assert {name: point["metrics"][name] for name in other["metrics"]} == other["metrics"]
    about = json.loads((tmp_path / "judged" / "run.json").read_text())
    assert about["judge"] == {"name": "sage at 127.0.0.1", "prompt": PROMPT}
    with pytest.raises(BadConfig, match="another run"):
        Run(replace(plan, judge="exact"), lm, cases, tmp_path / "judged")


def test_a_local_model_judges(models: Callable[[str], LM]) -> None:
    scorer = Scorer(models("llama"))
    judge = LocalJudge(scorer, "Q: {prompt} {expected} {said}\nVerdict:")
    rows = judged(ROWS, judge)
    lp = scorer.answers(
        [("Q: Bo lives in Norland the North: Norland\nVerdict:", word) for word in ("correct", "incorrect")]
    )
    right, wrong = (found.lp for found in lp.values())
    assert right is not None
    assert wrong is not None
    assert rows[0]["scores"]["judged"] == float(right > wrong)
    assert rows[0]["judge"]["name"] == f"tiny llama ({scorer.lm.fingerprint[:8]})"
    assert judge.verdicts(["river " * 200]) == [None]  # longer than what it can read
    with pytest.raises(BadConfig, match="lacks"):
        LocalJudge(scorer, "?")
