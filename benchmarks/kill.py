"""`kill -9` in the middle of a benchmark run, several times at random moments: the rows come out the same, byte for byte.

    python benchmarks/kill.py [--method memit] [--edits 200] [--kills 6] [--seed 0] [--set KEY=VALUE] [--independent]

Runs `errata bench` on the primer once undisturbed, then again with kills: up to three seconds after a random edit has
been written, every other time after the last edit before a checkpoint, so that measuring and writing rows are hit, too.
It is resumed each time with the same command and at last let end; rows.jsonl and the numbers of summary.json are
compared. Prints one JSON line, with what stood on the disk at each kill; exits 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ERRATA = [sys.executable, "-c", "import sys; from errata.cli import main; sys.exit(main())"]


def points(edits: int) -> list[int]:
    """Return the checkpoints."""
    return [max(1, edits * part // 4) for part in (1, 2, 3, 4)]


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """Return the words of one `errata bench`."""
    checkpoints = ",".join(map(str, points(options.edits)))
    words = ["bench", "--cases", f"primer:{options.edits}", "--edits", str(options.edits), "--method", options.method]
    words += ["--checkpoints", checkpoints, "--batch", str(options.batch), "--out", str(out), "--json"]
    words += [word for setting in options.set for word in ("--set", setting)]
    return [*ERRATA, *words, *(["--independent"] if options.independent else [])]


def state(run: Path) -> dict[str, int]:
    """Return what is on the disk: edits in the book, units of work that are complete, bytes of rows."""
    rows, marks = run / "rows.jsonl", run / "marks.jsonl"
    return {
        "edits": len(list((run / "book").rglob("*.safetensors"))),
        "units": marks.read_bytes().count(b"\n") if marks.exists() else 0,
        "bytes": rows.stat().st_size if rows.exists() else 0,
    }


def whole(words: list[str]) -> float:
    """Run to the end and return the seconds it took."""
    started = time.monotonic()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def killed(words: list[str], run: Path, moment: int, unit: str, delay: float) -> bool:
    """Run, kill `delay` seconds after so much was done, and return whether there was anything left to kill."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and state(run)[unit] < moment:
        time.sleep(0.02)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def numbers(run: Path) -> list[Any]:
    """Return the metrics of all checkpoints; times differ from run to run."""
    return [point["metrics"] for point in json.loads((run / "summary.json").read_text())["checkpoints"]]


def main(options: argparse.Namespace) -> int:
    """Run, kill, resume, compare; return 1 if the two differ."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as directory:
        calm, hurt = Path(directory) / "calm", Path(directory) / "hurt"
        seconds = whole(command(options, calm))
        kills: list[dict[str, Any]] = []
        unit, stops = ("units", []) if options.independent else ("edits", points(options.edits))
        moments = [
            rng.choice(stops) if stops and i % 2 else rng.randint(1, options.edits) for i in range(options.kills)
        ]
        for moment in sorted(moments):
            delay = rng.uniform(0.0, 3.0)
            if killed(command(options, hurt), hurt / options.method, moment, unit, delay):
                kills.append({"after": f"{unit[:-1]} {moment} + {delay:.1f} s", **state(hurt / options.method)})
        whole(command(options, hurt))
        one, other = calm / options.method, hurt / options.method
        same = (one / "rows.jsonl").read_bytes() == (other / "rows.jsonl").read_bytes()
        found = {"method": options.method, "edits": options.edits, "seconds": round(seconds, 1), "kills": kills}
        found |= {"rows": state(one)["bytes"], "same_rows": same, "same_numbers": numbers(one) == numbers(other)}
    print(json.dumps(found))
    return 0 if found["same_rows"] and found["same_numbers"] else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="memit")
    parser.add_argument("--edits", type=int, default=200)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--independent", action="store_true")
    sys.exit(main(parser.parse_args()))
