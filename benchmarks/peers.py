"""errata side by side with EasyEdit: the same model, the same edits, the same settings, edits in turn.

    python benchmarks/peers.py --easyedit CHECKOUT [--python ITS_PYTHON] [--method rome] [--cases primer:10] [--json FILE]
    python benchmarks/peers.py --easyedit CHECKOUT --method memit --model DIR --cases counterfact:FILE --set corpus=FILE

The checkout is the user's own; nothing of it is in errata. It runs in a process of its own (`speeds/peer.py`), with its own
Python if one is given. Its settings file is written from what errata resolved for this model: layers, steps, step size,
clamp, decay, KL and λ. Both work in float32, on the unedited model, one fact an edit. Seconds are those of the change alone,
without either side's evaluation and without a book; passes and tokens are counted at the input embedding and in autograd, on
both sides by the same code. The edited weights of both are judged by errata's scorer. The table holds the median of seconds,
means of passes and tokens, the first edit's seconds with all that is made once, and the first case's operations.

Covariances, by --statistics:
    none     neither side has one: `damping=1e6` here, `mom2_adjustment: false` there, as it is shipped. rome only.
    ours     both have errata's, damped: it is put where the library keeps its own, so nothing is fetched.
    theirs   each its own; the library fetches its corpus, which needs a network and takes long.

Not the same: what both sample as contexts (as many, of equal length), and targets' spaces, which each sets its own way. The
library makes nothing of prompts in which a subject stands twice, or of braces: such cases are left out on both sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from speeds.measure import Row
from speeds.pairs import PAIRS, Refused, directory, resolved, task
from speeds.passes import counting, timed
from speeds.process import Peer

from errata.data.case import Case
from errata.data.cases import parse
from errata.errors import ErrataError
from errata.evaluate.probes import Options
from errata.evaluate.rows import score
from errata.evaluate.summary import summarize
from errata.methods.base import versions
from errata.model.lm import LM
from errata.model.loading import load

SKIPPED = "skipped: there is nothing to compare with; give --easyedit the path of a checkout of EasyEdit."
PROBES = Options(probes=("edit", "paraphrase", "neighborhood"), chat=False)
QUALITY = ("efficacy", "said", "said_paraphrase", "neighborhood")
PASSES = ("forwards", "backwards", "tokens")


@contextmanager
def replaced(lm: LM, file: Path) -> Iterator[None]:
    """Give the model the weights of a file inside."""
    parameters = dict(lm.model.named_parameters())
    new = load_file(file)
    if strange := sorted(new.keys() - parameters.keys()):
        raise Refused(f"EasyEdit changed {strange[0]}, which the model has under no such name.")
    before = {name: parameters[name].detach().clone() for name in new}
    try:
        with torch.no_grad():
            for name, tensor in new.items():
                parameters[name].copy_(tensor)
        yield
    finally:
        with torch.no_grad():
            for name, tensor in before.items():
                parameters[name].copy_(tensor)


def ours(lm: LM, how: Any, case: Case, flops: bool = False) -> Row:
    """Write one fact with errata, leave it standing, and return seconds and counts."""
    lm.weights.stand([])

    def write() -> None:
        lm.weights.stand([how.solve(lm, case.facts).deltas])

    with counting(lm.model, flops) as count:
        seconds, _ = timed(write)
    return {"seconds": seconds, **asdict(count)}


def edits(lm: LM, how: Any, peer: Peer, cases: Sequence[Case], repeats: int) -> tuple[dict[str, list[Row]], Row]:
    """Return what every edit took on either side, and everything asked of the models they made (and of the unedited one)."""
    # With contexts, statistics and caches.
    first = {"errata": ours(lm, how, cases[0]), "easyedit": peer.edit(cases[0])}
    lm.weights.stand([])
    taken: dict[str, list[Row]] = {"errata": [], "easyedit": []}
    asked: Row = {"unedited": score(lm, cases, options=PROBES), "errata": [], "easyedit": []}
    for case in [case for _ in range(repeats) for case in cases]:
        taken["errata"].append(ours(lm, how, case))
        if len(taken["errata"]) <= len(cases):
            asked["errata"] += score(lm, [case], options=PROBES)
        lm.weights.stand([])
        taken["easyedit"].append(peer.edit(case))
        if len(taken["easyedit"]) <= len(cases):
            with replaced(lm, peer.file):
                asked["easyedit"] += score(lm, [case], options=PROBES)
    counted = {"errata": ours(lm, how, cases[0], True), "easyedit": peer.edit(cases[0], True)}
    lm.weights.stand([])
    for side, rows in taken.items():
        rows[0] |= {"first": first[side]["seconds"], "gflop": counted[side]["flops"] / 1e9}
    return taken, asked


def column(taken: Sequence[Row], asked: Sequence[Row]) -> Row:
    """Return one side's numbers: medians of seconds, means of counts, and what the scorer found."""
    found: Row = {}
    if taken:
        found = {"seconds": statistics.median(row["seconds"] for row in taken), "first_seconds": taken[0]["first"]}
        found |= {name: statistics.mean(row[name] for row in taken) for name in PASSES} | {"gflop": taken[0]["gflop"]}
    return found | {name: e.to_dict()["mean"] for name, e in summarize(asked).items() if name in QUALITY}


def table(columns: Mapping[str, Row]) -> str:
    """Return the columns side by side as Markdown."""
    lines = [["one edit", *columns], ["---"] * (len(columns) + 1)]
    for name in columns["errata"]:
        cells = [column.get(name) for column in columns.values()]
        lines.append([name, *("–" if cell is None else f"{cell:.4g}" for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def chosen(options: argparse.Namespace) -> list[Case]:
    """Return the cases both sides can write."""
    fine = (
        case
        for case in parse(options.cases, seed=1)
        if len(case.facts) == 1 and case.prompt.count(case.subject) == 1 and not set("{}") & set(case.prompt)
    )
    found = list(islice(fine, options.edits))
    if not found:
        raise Refused(f"{options.cases} has no case with one fact whose subject stands in its prompt once.")
    return found


def compare(options: argparse.Namespace) -> Row:
    """Return both sides' numbers."""
    if not (Path(options.easyedit) / "easyeditor" / "__init__.py").is_file():
        raise Refused(f"{options.easyedit} is no checkout of EasyEdit: there is no package easyeditor in it.")
    pair = PAIRS[options.method]
    options.statistics = options.statistics or pair.statistics
    if options.statistics == "none" and not pair.bare:
        raise Refused(
            f"{options.method} has no form without a covariance; --statistics is ours, or theirs with a network."
        )
    torch.set_num_threads(options.threads)
    lm, cases = load(str(directory(options.model)), device=options.device, dtype="float32"), chosen(options)
    how = resolved(lm, pair, cases, options)
    how.prepare(lm)
    with tempfile.TemporaryDirectory() as work:
        options.stats_dir = options.stats_dir or work
        peer = Peer(options.python, task(lm, how, options, Path(work)))
        try:
            taken, asked = edits(lm, how, peer, cases, options.repeats)
        finally:
            peer.close()
    sides = {side: column(taken.get(side, ()), rows) for side, rows in asked.items()}
    about = {"method": options.method, "model": options.model, "edits": len(cases), "statistics": options.statistics}
    about |= {
        "settings": {name: getattr(how, name) for name in PAIRS[options.method].settings},
        "timed": peer.hello["timed"],
    }
    of = {"errata": versions(), "easyedit": peer.hello["versions"]}
    return {**about, "versions": of, **{side: sides[side] for side in ("errata", "easyedit", "unedited")}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code: 0 also where there is nothing to compare with, 2 where it cannot be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--easyedit", help="a checkout of EasyEdit")
    parser.add_argument("--python", default=sys.executable, help="the Python it runs in; this one unless given")
    parser.add_argument("--model", default="primer", help="primer, or a directory")
    parser.add_argument("--cases", default="primer:10")
    parser.add_argument("--edits", type=int, default=10, help="only so many of the cases")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--method", default="rome", choices=list(PAIRS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting, for both sides")
    parser.add_argument("--statistics", choices=("none", "ours", "theirs"))
    parser.add_argument("--stats-dir", help="where the library keeps covariances it computes; a temporary place")
    parser.add_argument("--samples", type=int, default=100_000, help="texts it computes them from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the numbers there, too")
    options = parser.parse_args(arguments)
    if not options.easyedit:
        print(SKIPPED)
        return 0
    try:
        found = compare(options)
    except (Refused, ErrataError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    settings = ", ".join(f"{name} {value}" for name, value in found["settings"].items())
    print(
        f"{found['method']} on {found['model']}, {found['edits']} edits, statistics {found['statistics']}: {settings}\n"
    )
    print(table({side: found[side] for side in ("errata", "easyedit", "unedited")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
