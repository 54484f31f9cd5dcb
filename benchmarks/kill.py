"""`kill -9` in the middle of a benchmark run, several times at random moments: the rows come out the same, byte for byte.

    python benchmarks/kill.py [--method memit] [--edits 200] [--kills 6] [--seed 0] [--set KEY=VALUE] [--independent]

Runs `errata bench` on the primer once undisturbed, then again with a kill at random moments of the time that the first
took, resumes it each time with the same command, lets it end, and compares rows.jsonl and the numbers of summary.json.
Prints one JSON line, with what stood on the disk at each kill; exits 1 if anything differs.
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


def command(options: argparse.Namespace, out: Path) -> list[str]:
    """Return the words of one `errata bench`."""
    checkpoints = ",".join(str(max(1, options.edits * part // 4)) for part in (1, 2, 3))
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


def killed(words: list[str], after: float) -> bool:
    """Run, kill after so many seconds, and return whether there was anything left to kill."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


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
        for number in range(options.kills):
            # Each start may die anywhere in its share of the run, loading included; together they reach its end.
            after = rng.uniform(0.1, 1.9) * seconds / (options.kills + 1) + options.start * (number > 0)
            if not killed(command(options, hurt), after):
                break
            kills.append({"after": round(after, 2), **state(hurt / options.method)})
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
    parser.add_argument("--start", type=float, default=4.0, help="seconds until a resumed run is where it was")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--independent", action="store_true")
    sys.exit(main(parser.parse_args()))
