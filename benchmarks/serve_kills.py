"""`kill -9` of a server at random moments: what it had answered is there, and what it had begun is done once.

    python benchmarks/serve_kills.py --count 500 --seed 0 --out serve.jsonl      # a row a kill; `faults.py table` sums them up

A process serves a book of a tiny model and is sent changes with an idempotency key each, until it is killed. Another then
serves the same book: it goes on with what was queued, and is sent the request that was not answered once more, with its key, as
a client would. Every event that was reported must be in the history, each request must have been done exactly once, the
history, signatures and files must hold, and every weight be `cast(base + Σ standing deltas)` to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from starlette.testclient import TestClient
from tests import synthetic, tiny

from errata.book import signing, states
from errata.book.book import Book
from errata.book.verify import verify
from errata.delta import Site
from errata.editing.editor import Editor
from errata.model.lm import LM
from errata.serve.app import application
from errata.serve.auth import Gatekeeper
from errata.serve.guard import Limits

TOKEN: Final = "w" * 20
HERE: Final = "http://127.0.0.1:8321"
LONGEST: Final = 0.25  # seconds a server lives on at most once a request has begun
PATIENCE: Final = 60.0  # seconds in which what was queued must be over
Request = tuple[str, str, dict[str, Any]]  # idempotency key, route, body


def build(root: Path) -> LM:
    """Return the model, and make what a server needs beside it: a token, and a key that signs the book."""
    lm = tiny.build("llama")
    lm.generate = lambda prompts, *_, **__: ["?"] * len(prompts)  # type: ignore[method-assign]
    (root / "token").write_text(f"{TOKEN} write ada\n")
    (root / "token").chmod(0o600)
    signing.make_key(root / "ada.pem")
    os.environ["ERRATA_KEY"] = str(root / "ada.pem")
    return lm


def serve(lm: LM, root: Path, work: Callable[[TestClient, Editor], None]) -> None:
    """Serve the book in this process and do something with a client of it."""
    editor = Editor(lm, Book.open(root / "book", lm.identity, lm.name))
    app = application(editor, Gatekeeper(root / "token"), limits=Limits(rate=1e9))
    with TestClient(app, base_url=HERE, headers={"authorization": f"Bearer {TOKEN}"}) as client:
        work(client, editor)


def apart(work: Callable[[Callable[..., None]], None]) -> tuple[int, Any]:
    """Do something in a process of its own, which tells of it by a pipe; return its id and what reads the pipe."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            work(lambda **row: os.write(writer, (json.dumps(row) + "\n").encode()) and None)
            code = 0
        except BaseException as error:
            os.write(writer, (json.dumps({"failed": f"{type(error).__name__}: {error}"[:2000]}) + "\n").encode())
        finally:
            os._exit(code)
    os.close(writer)
    return child, os.fdopen(reader)


class Client:
    """Somebody who changes a book over HTTP, at random."""

    def __init__(self, seed: int) -> None:
        self.random, self.number = random.Random(seed), 0

    def request(self, book: Book) -> Request:
        """Return the next change: facts, a drop, a restore, a tag, or a state to go back to."""
        self.number += 1
        key, records = f"{self.random.random()}", book.records()
        stands, dropped = [r.id for r in records if r.stands], [r.id for r in records if not r.stands]
        kinds = ["edits"] * 4 + ["tags"] + ["drop"] * 2 * (len(stands) > 4) + ["restore"] * 2 * bool(dropped)
        kind = self.random.choice([*kinds, *["checkout"] * bool(states.tags(book))])
        if kind == "edits":
            names = [f"Town {key} {n}" for n in range(self.random.randint(1, 2))]
            rows = [{"prompt": f"{name} is in", "subject": name, "target": "Mali"} for name in names]
            body = {
                "facts": rows,
                "method": "ft",
                "settings": {"steps": 1, "layer": 1},
                "atomic": self.random.random() < 0.7,
            }
            return key, kind, body
        if kind == "tags":
            return key, kind, {"name": f"t{key[2:]}"}
        if kind == "checkout":
            return key, kind, {"state": self.random.choice([*states.tags(book)])}
        held = stands if kind == "drop" else dropped
        return key, kind, {"ids": self.random.sample(held, min(len(held), self.random.randint(1, 2)))}


def send(client: TestClient, asked: Request) -> dict[str, Any]:
    """Send a change, and return the job it became, once it is over."""
    key, route, body = asked
    answer = client.post(f"/api/{route}", json=body, headers={"idempotency-key": key}, params={"wait": 60})
    if answer.status_code != 200:
        raise AssertionError((answer.status_code, route, answer.text))
    job: dict[str, Any] = answer.json()["job"]
    return job


def change(lm: LM, root: Path, seed: int, tell: Callable[..., None]) -> None:
    """Serve, and send changes until killed; each is told of before it is sent and once it is answered."""

    def work(client: TestClient, editor: Editor) -> None:
        who = Client(seed)
        while True:
            asked = who.request(editor.book)
            tell(begin=asked, seq=editor.book.version())
            job = send(client, asked)
            tell(
                over=asked[0],
                job=job["id"],
                head=verify(editor.book).head if who.number % 5 == 0 else last(editor.book),
            )

    serve(lm, root, work)


def last(book: Book) -> str:
    """Return the hash of the book's last event."""
    history = book.history()
    return history[-1].hash if history else ""


def look(lm: LM, root: Path, said: list[dict[str, Any]], tell: Callable[..., None]) -> None:
    """Serve again what a kill left, send what was not answered once more, and tell what there is."""

    def work(client: TestClient, editor: Editor) -> None:
        found = [event.hash for event in editor.book.history()]
        reported = [row["head"] for row in said if row.get("head")]
        lost = [head for head in reported if head not in found]
        begun = next((row for row in said[::-1] if "begin" in row), None)
        late = bool(begun) and len(found) > begun["seq"] and "over" not in said[-1]
        jobs = settle(client)
        if begun and "over" not in said[-1]:
            send(client, (begun["begin"][0], begun["begin"][1], begun["begin"][2]))
        wrong = [*once(editor.book, jobs, said), *verify(editor.book).problems]
        wrong += ["an event is not signed"] * bool(verify(editor.book).unsigned)
        left = [*root.glob("book/*/incoming")]
        tell(lost=len(lost), wrong=wrong, late=late, left=len(left), reported=len(reported))
        bits(lm, editor)
        tell(bits=True)

    serve(lm, root, work)


def settle(client: TestClient) -> list[dict[str, Any]]:
    """Wait until no job is under way, and return them all."""
    end = time.monotonic() + PATIENCE
    while True:
        jobs: list[dict[str, Any]] = client.get("/api/jobs").json()["jobs"]
        if all(job["status"] in ("done", "failed", "cancelled") for job in jobs):
            return jobs
        assert time.monotonic() < end, "a job is not taken up again"
        time.sleep(0.01)


def once(book: Book, jobs: list[dict[str, Any]], said: list[dict[str, Any]]) -> list[str]:
    """Return what was done twice, by half, or not at all."""
    failed = [f"job {job['id']}: {job['error']}" for job in jobs if job["status"] != "done"]
    written = {f.prompt for record in book.records() for f in record.facts}
    prompts = [f.prompt for record in book.records() for f in record.facts]
    asked = [one["begin"] for one in said if "begin" in one]
    wanted = [row["prompt"] for _, route, body in asked if route == "edits" for row in body["facts"]]
    failed += [f"{prompt} is not written" for prompt in wanted if prompt not in written]
    failed += [f"{prompt} is written twice" for prompt in set(prompts) if prompts.count(prompt) > 1]
    by_job: dict[str, list[tuple[str, str]]] = {}
    for event in book.history():
        by_job.setdefault(str(event.data.get("job", "")), []).append((event.kind, event.edit_id))
    twice = [
        f"job {job} did {one} twice" for job, done in by_job.items() if job for one in set(done) if done.count(one) > 1
    ]
    return [*failed, *twice]


def bits(lm: LM, editor: Editor) -> None:
    """Raise AssertionError unless every weight is the base's and the sum of what stands, by other code."""
    for site in [Site(layer, role) for layer in range(lm.depth) for role in ("down", "attention")]:
        deltas: list[Any] = [edit.deltas[site] for edit in editor.standing if site in edit.deltas]
        assert torch.equal(lm.parameter(site), synthetic.by_hand(lm.weights.base(site), deltas)), site


def kill_one(lm: LM, root: Path, draw: random.Random) -> dict[str, Any]:
    """Serve, kill, serve again, and return what came of it."""
    seed = draw.randrange(2**40)
    child, told = apart(lambda tell: change(lm, root, seed, tell))
    lines: list[str] = []
    with told:
        for _ in range(draw.randint(1, 4)):
            lines.append(told.readline())
            while '"begin"' not in lines[-1]:
                assert lines[-1], lines
                lines.append(told.readline())
        time.sleep(draw.uniform(0, LONGEST))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        said = [json.loads(line) for line in ("".join(lines) + told.read()).split("\n")[:-1]]
    assert not any("failed" in row for row in said), said[-1]
    child, told = apart(lambda tell: look(lm, root, said, tell))
    with told:
        found = [json.loads(line) for line in told]
    os.waitpid(child, 0)
    whole = {key: value for row in found for key, value in row.items()}
    foreign = [*whole.get("wrong", ()), *([whole["failed"]] if "failed" in whole else [])]
    flight = "over" not in said[-1]
    wrong = len(foreign) + (not whole.get("bits"))
    begun = next(row for row in said[::-1] if "begin" in row)["begin"][1]
    row = {"fault": "kill -9, serve", "lost": whole.get("lost", 1), "foreign": wrong, "why": foreign[:3], "op": begun}
    row |= {"in flight": flight, **{key: int(whole.get(key, 0)) for key in ("late", "left", "reported")}}
    return row


def kills(count: int, seed: int, out: Path) -> None:
    """Kill `count` servers, and add a row for each to `out`."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lm = build(root)
        for number in range(count):
            if number % 10 == 0:
                shutil.rmtree(root / "book", ignore_errors=True)
            row = kill_one(lm, root, draw)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("serve.jsonl"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    kills(given.count, given.seed, given.out)


if __name__ == "__main__":
    main()
