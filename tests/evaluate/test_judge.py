"""Judges: a real server on the loopback, a local model, and what stands in the rows afterwards.

pytest tests/evaluate/test_judge.py
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from errata.errors import BadConfig, ErrataError
from errata.evaluate.judge import PROMPT, EndpointJudge, LocalJudge, judged, read_verdict
from errata.evaluate.scoring import Scorer
from errata.evaluate.summary import dump_row, estimate
from errata.model.lm import LM


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
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
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
