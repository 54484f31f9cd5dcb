"""Send nonsense to every route of a server, and say what came of it.

    python benchmarks/fuzz_http.py --count 100000 --seed 0

Requests that are in order, with what breaks parsers put into paths, queries, headers and bodies, straight into the application
of a tiny model, no network between. Each must be answered, below 500 or with 503 where the server says that it is busy, errors
with one sentence; history must only grow, and the book must hold at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote_from_bytes

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from tests import tiny
from tests.fuzzing import SPICE, mutated

from errata.book.book import Book
from errata.book.verify import verify
from errata.editing.editor import Editor
from errata.serve.app import application
from errata.serve.auth import Gatekeeper
from errata.serve.guard import Limits

TOKEN: Final = "w" * 20
FACT: Final = {"prompt": "The capital of France is", "subject": "France", "target": "Lyon"}
PROBE: Final = {"kind": "neighborhood", "prompt": "The capital of Spain is", "answer": "Madrid"}
CHEAP: Final = {"method": "ft", "settings": {"steps": 1, "layer": 1}}
BODIES: Final[dict[str, list[Any]]] = {
    "/api/edits": [
        {"facts": [FACT], **CHEAP},
        {"facts": [{**FACT, "probes": [PROBE]}], "gates": {"said": 1.0}, **CHEAP},
    ],
    "/api/try": [{"facts": [FACT], **CHEAP}],
    "/api/drop": [{"ids": ["abcdef"], "reason": "x"}],
    "/api/restore": [{"ids": ["abcdef"]}],
    "/api/tags": [{"name": "one", "move": True}],
    "/api/untag": [{"name": "one"}],
    "/api/checkout": [{"state": "base"}, {"state": "@1"}],
    "/api/check": [{"drop_expired": False}],
    "/api/locate": [{"prompt": FACT["prompt"], "subject": "France", "settings": {"samples": 1}}],
    "/api/subject": [{"prompt": FACT["prompt"]}],
    "/api/ask": [{"prompt": "a b", "states": ["base", "base@now"], "max_new_tokens": 2}],
    "/api/preview": [
        {"text": json.dumps(FACT), "form": "jsonl"},
        {"text": "prompt,subject,target\na b,a,c", "form": "csv"},
    ],
    "/v1/completions": [
        {"model": "base", "prompt": "a b", "max_tokens": 2, "stop": ["x"]},
        {"model": "base@now", "prompt": "a", "max_tokens": 1},
    ],
    "/v1/chat/completions": [{"model": "base", "messages": [{"role": "user", "content": "a"}], "max_tokens": 2}],
}
PATHS: Final = (
    "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/models/base", "/api/edits", "/api/edits/abcdef", "/api/history",
    "/api/tags", "/api/diff?a=base&b=now", "/api/conflicts?limit=0.3", "/api/jobs", "/api/jobs/abc", "/api/export?form=delta",
    "/", "/book", "/edit/abcdef", "/where", "/import", "/bench", "/api", "/static/studio.js", "/open?key=x",
)  # fmt: skip
METHODS: Final = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS")
NAMES: Final = (b"if-match", b"idempotency-key", b"cookie", b"accept", b"origin", b"x-errata", b"host", b"range")


def cheap(body: bytes) -> bytes:
    """Return a body that asks for no long computing, which is not what is looked at here."""
    try:
        row = json.loads(body)
    except (ValueError, RecursionError):
        return body
    if not isinstance(row, dict) or not isinstance(row.get("settings"), dict):
        return body
    row["settings"] |= {name: 1 for name in ("steps", "samples") if name in row["settings"]}
    return json.dumps(row).encode()


def request(draw: random.Random) -> tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]:
    """Return a method, a path, a query, headers and a body."""
    headers = [(b"host", b"127.0.0.1"), (b"authorization", f"Bearer {TOKEN}".encode())]
    if draw.random() < 0.7:
        path = draw.choice(list(BODIES))
        body = cheap(mutated([json.dumps(one, ensure_ascii=False).encode() for one in BODIES[path]], draw))
        headers.append((b"content-type", b"application/json"))
        method = "POST"
    else:
        path, method, body = draw.choice(PATHS), draw.choice(METHODS), b""
    path, _, query = path.partition("?")
    if draw.random() < 0.3:
        path = mutated([path.encode()], draw)[:4000].decode("latin-1")
    if draw.random() < 0.3:
        query = quote_from_bytes(mutated([query.encode() or b"wait=1"], draw)[:4000], safe="=&%")
    if draw.random() < 0.3:
        value = mutated([b'"v1"', b"abc", b"errata=1", draw.choice(SPICE)], draw)[:4000]
        headers.append((draw.choice(NAMES), value.replace(b"\n", b"").replace(b"\r", b"")))
    return method, path.encode("latin-1"), query.encode(), headers, body


async def send(app: Any, asked: tuple[str, bytes, bytes, list[tuple[bytes, bytes]], bytes]) -> tuple[int, bytes]:
    """Return the status and the body of an answer."""
    method, path, query, headers, body = asked
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "root_path": "",
        "path": path.decode("utf-8", "replace"), "raw_path": path, "query_string": query, "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8321),
    }  # fmt: skip
    status, parts, sent = 0, list[bytes](), False

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.sleep(3600)
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def got(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)
        parts.append(message.get("body", b""))

    try:
        await asyncio.wait_for(app(scope, receive, got), 180)
    except TimeoutError as error:
        raise AssertionError(f"no answer to {asked!r}"[:2000]) from error
    return status, b"".join(parts)


def look(status: int, text: bytes, asked: Any) -> None:
    """Raise AssertionError for an answer that must not be."""
    assert 0 < status < 500 or status == 503, (status, asked, text[:500])
    if status >= 400 and text[:1] == b"{":
        error = json.loads(text).get("error") or json.loads(text)["job"]["error"]
        assert error["message"].strip(), (asked, text[:500])


async def fuzz(app: Any, book: Book, count: int, seed: int) -> Counter[str]:
    """Send `count` requests one after the other; return how many of each status."""
    draw, found, before = random.Random(seed), Counter[str](), list[str]()
    app.service.owner.start()
    app.service.jobs.start()
    for number in range(count):
        asked = request(draw)
        status, text = await send(app, asked)
        look(status, text, asked)
        found[f"{status // 100}xx"] += 1
        if number % 500 == 0:
            now = [event.hash for event in book.history()]
            assert now[: len(before)] == before, "history only grows"
            before = now
    app.service.jobs.stop()
    app.service.owner.stop()
    return found


def main() -> None:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, lm = Path(folder), tiny.build("llama")
        (root / "token").write_text(f"{TOKEN} write ada\n")
        (root / "token").chmod(0o600)
        with Editor(lm, Book.open(root / "book", lm.identity, lm.name)) as editor:
            app = application(editor, Gatekeeper(root / "token"), limits=Limits(rate=1e9))
            started = time.perf_counter()
            found = asyncio.run(fuzz(app, editor.book, given.count, given.seed))
            problems = verify(editor.book).problems
            assert not problems, problems
            row = {"reader": "HTTP", "inputs": given.count, "seconds": round(time.perf_counter() - started, 1), **found}
            print(json.dumps({**row, "events": editor.book.version()}), flush=True)


if __name__ == "__main__":
    main()
