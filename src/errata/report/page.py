"""The whole page: a headline from the data, then for each set of comparable runs what carries it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from errata.errors import BadFile
from errata.report import plots, tables
from errata.report.lights import lights
from errata.report.markup import Safe, el, join
from errata.report.names import edits
from errata.report.paired import Field, scored
from errata.report.read import RunReport, comparison, read_all
from errata.report.slots import slots_of
from errata.report.style import STYLE
from errata.report.tables import _Slots
from errata.report.verdict import gap, headline, order

GAP_NOTE = "Efficacy only asks whether the new answer is likelier than the old one; said is what a user sees. "
REPHRASE_NOTE = "EasyEdit's rephrase prompts are mostly generation prompts, so the result is no paraphrase score."
BAND_NOTE = "Bands are 95 % intervals; ✕ ends a run that was stopped."
WORST_NOTE = "The probes answered most wrongly at each method's last checkpoint, one a case."
BOLD_NOTE = (
    "Mean ± half-width of the 95 % interval, clustered by fact. Bold: better than every other method by more than "
    "the interval of the difference. A method that writes nothing does not compete."
)


def build(directories: Sequence[Path]) -> str:
    """Return the page for these run directories, as one HTML document that needs nothing else.

    Raises BadFile if a directory is not a run. A torn last row is left out and counted.
    """
    runs = read_all(directories)
    slots = slots_of(runs)
    groups = grouped(runs)
    title = headline(groups[0])
    sections = [_section(group, slots, heading) for group, heading in zip(groups, _headings(groups), strict=True)]
    return document(title, _masthead(groups, title), el("main", *sections, _provenance(runs, slots)))


def document(title: str, *body: Safe) -> str:
    """Return one HTML document that needs nothing else."""
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        el("style", Safe(STYLE)),
    )
    return "<!doctype html>\n" + el("html", head, el("body", *body), lang="en") + "\n"


def write(directories: Sequence[Path], out: Path) -> None:
    """Write the page to `out`, whole or not at all; raises BadFile as `build` does, and if `out` cannot be written."""
    put(build(directories), Path(out))


def put(page: str, out: Path) -> None:
    """Write a page, whole or not at all; raises BadFile if it cannot be written."""
    part = out.with_name(out.name + ".part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(page, encoding="utf-8")
        part.replace(out)
    except OSError as error:
        raise BadFile(
            f"The report cannot be written to {out} ({error.strerror}); name another file with --out."
        ) from error


def grouped(runs: Iterable[RunReport]) -> list[list[RunReport]]:
    """Return runs that can be compared, together and the best first; sequential groups before independent ones."""
    found: dict[tuple[str, ...], list[RunReport]] = {}
    for run in runs:
        found.setdefault(comparison(run), []).append(run)
    return [order(group) for group in sorted(found.values(), key=lambda group: not group[0].sequential)]


def _masthead(groups: Sequence[Sequence[RunReport]], title: str) -> Safe:
    rest = [headline(group) for group in groups[1:]]
    flattering = next((sentence for group in groups if (sentence := gap(group))), "")
    deck = " ".join([*rest, flattering]).strip()
    over = el("p", el("b", "errata report"), " ", _about(groups[0][0]), class_="over")
    return el("header", over, el("h1", title), el("p", deck, class_="deck") if deck else "")


def _section(runs: Sequence[RunReport], slots: _Slots, heading: str) -> Safe:
    """Return everything on one set of comparable runs."""
    parts: list[object] = [el("h2", heading)] if heading else []
    parts.append(tables.strip(runs, slots) if runs[0].sequential else "")
    parts.append(lights(runs, slots))
    rephrased = plots.pairs(runs, slots, "paraphrase", "rephrase_easyedit")
    if any(len(run.checkpoints) > 1 for run in runs):
        parts.append(_grid("Over the number of edits", BAND_NOTE, plots.over_edits(runs, slots)))
        flattering = plots.gaps(runs, slots) + rephrased
    else:
        parts.append(_grid("Side by side", "Lines are 95 % intervals.", plots.ranges(runs, slots)))
        flattering = plots.pairs(runs, slots, "efficacy", "said") + rephrased
    parts.append(_grid("Numbers that flatter", GAP_NOTE + (REPHRASE_NOTE if rephrased else ""), flattering))
    parts.append(_numbers(runs, slots))
    parts.append(_grid("Cost", "", plots.costs(runs, slots)))
    if cases := tables.worst(runs, slots):
        parts.append(join(el("h3", "Worst cases"), el("p", WORST_NOTE, class_="fine"), cases))
    return el("section", *parts)


def _headings(groups: Sequence[Sequence[RunReport]]) -> list[str]:
    """Return what sets each set of runs apart, "" if there is only one."""
    modes = ["All edits in one model" if group[0].sequential else "One edit at a time" for group in groups]
    places = [_about(group[0]) for group in groups]
    if len(groups) == 1:
        return [""]
    return [f"{mode}, {place}" for mode, place in zip(modes, places, strict=True)] if len(set(places)) > 1 else modes


def _about(run: RunReport) -> str:
    return " · ".join(str(run.about[key]) for key in ("model", "cases") if run.about.get(key))


def _grid(title: str, note: str, figures: Sequence[Safe]) -> Safe:
    if not figures:
        return Safe()
    return join(el("h3", title), el("p", note, class_="fine") if note else "", el("div", *figures, class_="grid"))


def _numbers(runs: Sequence[RunReport], slots: _Slots) -> Safe:
    """Return the tables: at the last checkpoint that all runs reached, and folded away at every other one."""
    everyone = [{c.edits for c in run.checkpoints} for run in runs]
    reached, shared = sorted(set().union(*everyone)), set.intersection(*everyone)
    main = max(shared or reached or {0})
    at = [run.at(main) if run.sequential else run.last for run in runs]
    field = Field(runs, at, [scored(run, checkpoint) for run, checkpoint in zip(runs, at, strict=True)])
    parts: list[object] = [el("h3", "All numbers"), el("p", BOLD_NOTE, class_="fine")]
    if runs[0].sequential:
        why = ", the last checkpoint that every method reached" if len(runs) > 1 and shared else ""
        parts.append(el("p", el("b", f"After {edits(main)}"), f"{why}."))
    parts.append(tables.numbers(field, slots))
    if pairs := tables.differences(field, slots):
        parts += [el("h4", "Differences, paired by fact"), pairs]
    for t in reached if runs[0].sequential else []:
        if t != main:
            table = tables.numbers(Field(runs, [run.at(t) for run in runs]), slots)
            parts.append(el("details", el("summary", f"After {edits(t)}"), table))
    return join(*parts)


def _provenance(runs: Sequence[RunReport], slots: _Slots) -> Safe:
    return el("section", el("h2", "How it was run"), tables.provenance(runs, slots))
