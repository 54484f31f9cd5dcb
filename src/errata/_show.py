"""How rows look on a terminal: each function takes what `--json` would print and returns something rich can draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

Row = Mapping[str, Any]


def console(*, stderr: bool = False) -> Console:
    """Return the console that everything here is to be printed on."""
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def answer(row: Row) -> RenderableType:
    """The prompt with what the model says after it, and the likeliest next tokens or classes."""
    said = Text.assemble(row["prompt"], " ", (row["text"].strip(), "bold"))
    if not row["top"]:
        return said
    table = _table(row["of"], "p")
    for choice in row["top"]:
        name = repr(choice["token"]) if row["of"] == "next token" else _one_line(choice["token"])
        table.add_row(name, f"{choice['p']:.3f} {'▇' * round(choice['p'] * 20)}")
    return Group(said, table)


def edits(rows: Sequence[Row]) -> RenderableType:
    """One line a fact: what the model said before, and what it says now."""
    table = _table("edit", "method", "fact", "before", "now", "")
    for row in rows:
        for fact in row["facts"]:
            table.add_row(
                row["id"][:8], row["method"], _asked(fact["prompt"]), _short(fact["before"]),
                Text(_short(fact["after"]), "bold"), _mark(fact["said"]),
            )  # fmt: skip
    seconds = sum(sum(row["seconds"].values()) for row in rows)
    said = [fact["said"] for row in rows for fact in row["facts"]]
    return Group(table, Text(f"{sum(said)} of {len(said)} said in free generation; {seconds:.1f} s", "dim"))


def log(rows: Sequence[Row]) -> RenderableType:
    """One line an edit, dropped ones struck out."""
    if not rows:
        return Text("The log is empty.")
    table = _table("#", "edit", "written", "method", "facts", "by", "why", "")
    for row in rows:
        facts = [Text(_stated(fact)) for fact in row["facts"][:3]]
        more = [Text(f"and {len(row['facts']) - 3} more", "dim")] if len(row["facts"]) > 3 else []
        more += [Text(f"overrides {lost['edit'][:8]}: {_asked(lost['prompt'])}", "yellow") for lost in row["forgotten"]]
        stands = Text("stands", "green") if row["stands"] else Text("dropped", "dim")
        table.add_row(
            str(row["seq"]), row["id"][:8], row["created_at"][:16].replace("T", " "), row["method"],
            Text("\n").join(facts + more), _one_line(row["author"]), _one_line(row["reason"]), stands,
            style="" if row["stands"] else "dim strike",
        )  # fmt: skip
    return table


def record(row: Row) -> RenderableType:
    """Everything known about one edit, field by field."""
    table = _table("", "")
    for fact in row["facts"]:
        table.add_row("fact", _one_line(f"{fact['prompt']} → {fact['target']}"))
    for name, text in _flat("", {key: value for key, value in row.items() if key != "facts"}):
        table.add_row(name, text)
    return table


def located(row: Row) -> RenderableType:
    """Each layer's share of the ensemble, or a heat map of tokens × layers, and what was done with it."""
    ends = [f"drawn in {path}" for path in row["picture"]]
    ends += [f"layer {layer} is this model's default from now on" for layer in row["remembered"]]
    lines = Text("\n".join([*row["notes"], *ends]), "dim")
    return Group(*(_traced(row) if row["method"] == "trace" else _ensemble(row)), lines)


def reached(row: Row) -> RenderableType:
    """Quantiles of the distances of keys to rephrasings and to other texts, and the radius between."""
    table = _table("distance to", *row["rephrasings"])
    for name in ("rephrasings", "other texts"):
        table.add_row(name, *(f"{value:.3g}" for value in row[name].values()))
    what = (
        f"{row['method']} reads keys at {row['site']}; radius {row['radius']:.4g}, the mean over {row['facts']} facts"
    )
    return Group(table, Text("\n".join([what, *(f"drawn in {path}" for path in row["picture"])]), "dim"))


def _ensemble(row: Row) -> Iterator[RenderableType]:
    yield Text(f"{row['prompt']} → {row['target']}: {row['size']} of {row['candidates']:,} neurons")
    table = _table("layer", "share", "neurons that say it most")
    for layer, share in row["share"].items():
        known = row["ensemble"][layer]
        best = sorted(zip(known["score"], known["index"], strict=True), reverse=True)[:5]
        table.add_row(layer, f"{share:.3f} {'▇' * round(share * 20)}", ", ".join(f"{i} ({s:.3g})" for s, i in best))
    yield table


def _traced(row: Row) -> Iterator[RenderableType]:
    effect = row["effect"]["mlp"]
    peak = max(max(line) for line in effect) or 1.0
    what = f"{row['prompt']} → {row['target']}" if row["facts"] == 1 else f"mean of {row['facts']} facts"
    yield Text(f"{what}: P(answer) {row['clean']:.3f}, with the subject noised {row['corrupted']:.3f}")
    yield Text("What restoring the MLP's output brings back, by token and layer:")
    table = _table("", *(str(layer) for layer in range(len(effect[0]))))
    for token, line in zip(row["tokens"], effect, strict=True):
        table.add_row(Text(token.strip() or repr(token), no_wrap=True), *(_shade(value, peak) for value in line))
    yield table
    yield Text(f"most at the subject's last token: layer {row['layer']}")


def _shade(value: float, peak: float) -> str:
    return f"{value if abs(value) > 0.005 else 0:.2f}{'·░▒▓█'[max(0, min(4, int(5 * value / peak)))]}"


def methods(rows: Sequence[Row]) -> RenderableType:
    """One line a method."""
    table = _table("method", "", "paper")
    for row in rows:
        table.add_row(Text(row["name"], "bold"), _one_line(row["title"]), _one_line(row["paper"]))
    return table


def method(row: Row) -> RenderableType:
    """One method and its settings."""
    table = _table("setting", "default", "takes", "")
    for setting in row["settings"]:
        table.add_row(
            setting["name"], _value(setting["default"]), _one_line(setting["type"]), _one_line(setting["help"])
        )
    return Group(Text(row["title"], "bold"), Text(row["paper"], "dim"), table)


def scene(row: Row) -> RenderableType:
    """One scene of the demo: its title, a table whose answers are marked right or wrong, a remark."""
    parts: list[RenderableType] = [Text(f"\n{row['title']}", "bold cyan")]
    if row["lines"]:
        table = _table(*row["heads"])
        for above, line in zip([None, *row["lines"]], row["lines"], strict=False):
            if above and above["kind"] != "fact" == line["kind"]:
                table.add_section()
            answers = [Text.assemble(_mark(a["right"]), " ", _short(a["said"])) for a in line["answers"]]
            table.add_row(Text(line["kind"], "dim"), _one_line(line["prompt"]), *answers)
        parts.append(table)
    if row["remark"]:
        parts.append(Text(row["remark"], "italic"))
    return Group(*parts)


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Draw a bar with the time left on stderr, and yield what moves it: a function of (done, wanted)."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # few commands draw one

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, wanted: bar.update(task, completed=done, total=wanted)


def _table(*heads: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(heads))
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head in ("#", "edit", "written", "method"))
    return table


def _one_line(text: object) -> str:
    """Return text without line breaks; markup is off in `console`, so brackets that users wrote stay brackets."""
    return " ".join(str(text).split())


def _mark(right: bool) -> Text:
    return Text("✓", "green") if right else Text("✗", "red")


def _short(text: object, most: int = 60) -> str:
    line = _one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _asked(prompt: object, most: int = 120) -> str:
    """Return a prompt on one line; of a document its beginning and its end. `errata show` prints all of it."""
    line = _one_line(prompt)
    return line if len(line) <= most else f"{line[: most - 40]} … {line[-37:]}"


def _stated(fact: Row) -> str:
    """Return what a fact says, on one line."""
    return f"{_asked(fact['prompt'])} → {_short(fact['target'])}"


def _flat(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) for everything in a nest of mappings and lists that is not empty."""
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping) for part in value):
        parts = enumerate(value, 1)
    elif value not in ("", [], (), {}, None):
        yield name, _value(value)
    for key, part in parts:
        yield from _flat(f"{name}.{key}".removeprefix("."), part)


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(part) for part in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# What a comparison of methods is first judged by, and its heading; what does not fit is left to the report.
HEADS = {
    "said": "said", "efficacy": "efficacy", "paraphrase": "paraphr.", "neighborhood": "neighb.",
    "perplexity": "perplex.", "portability_said": "follows", "retention_oldest": "oldest", "judged": "judged",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fitting:
    """A table that leaves out columns from the right until it fits where it is drawn, and says so below."""

    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    fixed: int  # columns from the left that always stay
    note: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = len(self.heads)
        while shown > self.fixed and self._table(shown, console, options)[1] > options.max_width:
            shown -= 1
        yield self._table(shown, console, options)[0]
        left = ", ".join(self.heads[shown:])
        yield Text(f" {self.note}" + (f" Not shown here: {left}." if left else ""), "dim")

    def _table(self, shown: int, console: Console, options: ConsoleOptions) -> tuple[Table, int]:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for number, head in enumerate(self.heads[:shown]):
            table.add_column(head, no_wrap=True, justify="left" if number == 0 else "right")
        for line in self.lines:
            table.add_row(*line[:shown])
        return table, Measurement.get(console, options.update(max_width=10_000), table).maximum


def summaries(rows: Sequence[Row]) -> RenderableType:
    """The unedited model, and each method after its last edit, with the numbers people look at first."""
    ends = [("unedited", row["checkpoints"][0]) for row in rows[:1]]
    ends += [(row["method"] + (" (stopped)" if row["stopped"] else ""), row["checkpoints"][-1]) for row in rows]
    tasks = [name for _, point in ends for name in point["metrics"] if name.startswith("harness.")]
    heads = HEADS | {name: name.removeprefix("harness.") for name in tasks}
    held = [name for name in heads if any(name in point["metrics"] for _, point in ends)]
    lines = [
        (name, str(point["edits"]), *(_estimate(point["metrics"].get(metric)) for metric in held))
        for name, point in ends
    ]
    facts = max((point["metrics"]["said"]["n"] for _, point in ends if "said" in point["metrics"]), default=0)
    refused = "".join(f" {row['method']} refused {row['refused']} cases." for row in rows if row["refused"])
    note = f"± 95 % interval, n = {facts} facts.{refused} Every checkpoint and number is in the report."
    return _Fitting(("", "edits", *(heads[name] for name in held)), lines, 3, note)


def _estimate(found: Row | None) -> str:
    if found is None or found["mean"] is None:
        return "–"
    mean, half = found["mean"], found["half_width"]
    digits = 2 if abs(mean) < 100 else 0
    return f"{mean:.{digits}f}" + ("" if half is None else f"±{half:.{digits}f}")


def benchmarks(rows: Sequence[Row]) -> RenderableType:
    """A few lines a benchmark: what it is, where it was found, or where to get it."""
    table = _table("cases", "")
    table.columns[0].no_wrap = True
    for row in rows:
        place = [f"{row['records']:,} records", *row["files"]] if row["files"] else [f"get it from {row['where']}"]
        about = [Text(row["title"]), *(Text(line, "dim") for line in (*place, f"licence: {row['licence']}"))]
        table.add_row(row["name"], Text("\n").join(about))
    return table


def sentence(text: str) -> RenderableType:
    """One line of text."""
    return Text(text)
