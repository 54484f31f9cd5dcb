"""Commands that compare methods: bench, report, data."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import BadConfig, BadFile, did_you_mean, redacted

Steps = Annotated[str, typer.Option("--checkpoints", help="Numbers of edits at which everything is measured.")]


MOST = 100  # cases edited unless told otherwise


def bench(
    cases: Annotated[str, typer.Option("--cases", help="primer:N, jsonl:FILE, counterfact:FILE … see errata data.")],
    out: Annotated[Path, typer.Option("--out", help="Directory of the run; an interrupted one goes on.")],
    method: Annotated[str, typer.Option("--method", help="One or more, with commas; none writes nothing.")] = "rome",
    model: opt.Model = "primer",
    settings: opt.Settings = None,
    edits: Annotated[
        int | None, typer.Option("--edits", min=1, help="How many cases are edited; all, and 100 of more, unless told.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Cases an edit, for methods that write batches.")] = 1,
    checkpoints: Steps = "1,10,100,1000,10000",
    independent: Annotated[bool, typer.Option("--independent", help="Each case alone, then taken back.")] = False,
    generation: Annotated[bool, typer.Option("--generation", help="Also generate freely; slow.")] = False,
    stop: Annotated[float | None, typer.Option("--stop-at-perplexity", help="End a run that has collapsed.")] = None,
    text: Annotated[
        str, typer.Option("--text", help="Text of the perplexity: auto, prose, primer, or a file.")
    ] = "auto",
    data: Annotated[Path | None, typer.Option("--data", help="Where benchmark files lie; else $ERRATA_DATA.")] = None,
    judge: Annotated[
        str, typer.Option("--judge", help="Who also reads what is said: exact, contains, model:DIR, URL#NAME.")
    ] = "",
    harness: Annotated[
        str, typer.Option("--harness", help="Also these tasks of lm-evaluation-harness: names, files, directories.")
    ] = "",
    probes: Annotated[
        str, typer.Option("--probes", help="Also what critics ask: wild for all of it, or names with commas.")
    ] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Count malformed records instead of stopping.")] = False,
    seed: Annotated[int, typer.Option("--seed", help="What new answers and samples are drawn from.")] = 0,
    as_json: opt.Json = False,
) -> Shown:  # size: an option a line
    """Edit many cases with one or several methods, measure, and write a report."""
    from errata import report
    from errata.bench.compare import compare_methods
    from errata.bench.run import Plan
    from errata.data.cases import parse

    known = parse(cases, data=data, seed=seed, skip_bad=skip_bad)
    plan = Plan(
        method=method, cases=cases, edits=edits or max(1, min(MOST, len(known))),
        batch=batch, checkpoints=_numbers(checkpoints), seed=seed,
        independent=independent, generation=generation, stop_at_perplexity=stop, text=text,
        command=redacted(shlex.join(["errata", *sys.argv[1:]])), harness=_words(harness), judge=judge,
        probes=_probes(probes),
    )  # fmt: skip
    found = compare_methods(plan, known, model, settings or [], out, opt.TELL.get())
    report.write([out / name for name in found], out / "report.html")
    return Shown(list(found.values()), as_json)


def report(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Runs, or directories of runs.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
) -> Shown:
    """Make one page of several runs, to be read side by side."""
    from errata.report import write

    runs = [run for directory in directories for run in _runs(directory)]
    write(runs, out)
    return Shown(f"{out}: {len(runs)} runs")


def data(
    where: Annotated[Path | None, typer.Option("--data", help="Where files lie; else $ERRATA_DATA.")] = None,
    as_json: opt.Json = False,
) -> Shown:
    """List the known benchmarks, where each was found or where to get it, and its licence."""
    from errata.data import cases

    rows = []
    for known in cases.known_sets():
        found = cases.find(known, where)
        counts = [len(cases.parse(f"{known.name}:{path}", skip_bad=True)) for path in found]
        row = {"name": known.name, "title": known.title, "files": [str(path) for path in found], "records": sum(counts)}
        rows.append({**row, "where": known.where, "licence": known.licence})
    return Shown(rows, as_json)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _probes(text: str) -> tuple[str, ...]:
    """Return the probes that --probes names, in the order of the table."""
    from errata.data.case import QUANTISED, WILD

    known, words = (*WILD, *QUANTISED), _words(text)
    for word in words:
        if word not in (*known, "wild"):
            hint = did_you_mean(word, (*known, "wild"))
            raise BadConfig(f"no probe {word!r} for --probes.{hint} Known: wild, which is all of {', '.join(known)}.")
    return tuple(name for name in known if name in words or "wild" in words)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise BadConfig(f"--checkpoints takes numbers of edits with commas, such as 1,10,100; not {text!r}.")
    return numbers


def _runs(directory: Path) -> Sequence[Path]:
    """Return the directory itself if it is a run, else the runs in it."""
    if (directory / "run.json").exists() or not directory.is_dir():
        return [directory]
    found = sorted(path.parent for path in directory.glob("*/run.json"))
    if not found:
        raise BadFile(f"{directory} holds no run; name a directory that errata bench wrote.")
    return found
