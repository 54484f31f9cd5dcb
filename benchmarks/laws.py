"""Search for the input that breaks a law: every hypothesis test of the suite, at random and at length.

python benchmarks/laws.py                        # 50 times the examples of the suite, all laws
python benchmarks/laws.py --times 250 tests/solve/test_ledger.py

The suite itself tries the same examples every time. What this finds becomes an @example there; run it after touching
mathematics, storage or parsing, and watch it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run pytest on the files that have laws in them; its exit code is this one's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("paths", nargs="*", help="files of tests; all that have laws unless given")
    given = parser.parse_args()
    files = sorted(ROOT.glob("tests/**/test_*.py"))
    laws = [str(path) for path in files if "from hypothesis import" in path.read_text(encoding="utf-8")]
    environment = os.environ | {"ERRATA_LAWS": str(given.times), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-n", "auto", "-m", "hypothesis", *(given.paths or laws)]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
