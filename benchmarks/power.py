"""Let the power go at many moments of a program that uses a book, and say what was left each time.

python benchmarks/power.py --count 5000 --seed 0 --out power.jsonl        # rows for `faults.py table`

What a disk may keep of what was not synced, and what must be there, is in `tests/power.py`. Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import power


def main() -> None:
    """Read the command line, and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("power.jsonl"))
    given = parser.parse_args()
    draw = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        watcher = power.library(root)
        if watcher is None:
            sys.exit("this needs Linux and a C compiler")
        steps = power.record(watcher, root)
        found: dict[str, Counter[str]] = {how: Counter() for how in power.MODES}
        disk, left, done = power.Disk(), root / "left", 0
        for cut, how in sorted(power.moments(steps, given.count, given.seed)):
            for step in steps[done:cut]:
                disk.do(step)
            done = cut
            shutil.rmtree(left, ignore_errors=True)
            disk.left(left, how, draw)
            try:
                found[how][power.check(left, steps, cut)] += 1
            except AssertionError as error:
                found[how]["lost"] += 1
                print(cut, how, str(error)[:300], flush=True)
    with given.out.open("a", encoding="utf-8") as file:
        for how, counts in found.items():
            what = f"{counts['reported']} as reported, {counts['more']} with what was under way, {counts['none']} new"
            row = {"fault": f"power cut, {how} of what was not synced kept", "times": counts.total(), "what": what}
            file.write(json.dumps({**row, "steps": len(steps), "lost": counts["lost"], "foreign": 0}) + "\n")


if __name__ == "__main__":
    main()
