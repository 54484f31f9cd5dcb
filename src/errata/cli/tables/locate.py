"""Located facts and distances of keys as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from errata.cli.tables.base import Json, mark, table_of
from errata.errors import ranges
from errata.report.tuned import worded


def arch(row: Json) -> RenderableType:
    """How a model is built, a line a kind of block, and a line a check."""
    by = "by its row in the table" if row["by"] == "row" else "by its shape"
    packing = row["packing"]
    held = f"packed as {packing}" if packing else "lie elsewhere until they are used"
    said = {
        "matrices stored (in, out)": row["transposed"], "a norm or scale after down": row["post_norm"],
        "experts in some blocks": row["experts"], "keeps states of its own": row["cache"] == "own",
        "keeps no cache": row["cache"] == "none",
        f"{row['beside']} matrices {held}; edits stand beside them, and leave as adapters": row["beside"],
        "inputs are rounded to 8 bits: what a text gets depends a little on what else is in its batch": packing == "int8",
    }  # fmt: skip
    size = f"{row['layers']} blocks of width {row['width']}"
    head = [f"{row['model']}: {row['model_type']}, a{'n' * (row['kind'][0] == 'e')} {row['kind']}, found {by}; {size}"]
    head += [text for text, holds in said.items() if holds]
    lines = []
    for kind in row["blocks"]:
        alike = f"\nlayer{'s' * (len(kind['layers']) > 1)} {ranges(kind['layers'])}: {kind['path']}, {kind['block']}"
        lines += [alike, *(f"    {role:<10}{_paths(kind[role])}" for role in ("up", "down", "attention"))]
    checks = table_of("", "check", "seen")
    for check in row["checks"]:
        checks.add_row(mark(check["holds"]), check["what"], check["seen"])
    tuned = [f"tuned: {method} {worded(settings)}" for method, settings in row["profile"].items()]
    return Group(Text("; ".join(head)), Text("\n".join([*lines, *tuned])), checks)


def _paths(found: str | list[str]) -> str:
    return ", ".join([found] if isinstance(found, str) else found) or "none"


def locate(row: Json) -> RenderableType:
    """Each layer's share of the ensemble, or a heat map of tokens × layers, and what was done with it."""
    ends = [f"drawn in {path}" for path in row["picture"]]
    ends += [f"layer {layer} is this model's default from now on" for layer in row["remembered"]]
    lines = Text("\n".join([*row["notes"], *ends]), "dim")
    return Group(*(_traced(row) if row["method"] == "trace" else _ensemble(row)), lines)


def radius(row: Json) -> RenderableType:
    """Quantiles of the distances of keys to rephrasings and to other texts, and the radius between."""
    table = table_of("distance to", *row["rephrasings"])
    for name in ("rephrasings", "other questions" if "other questions" in row else "other texts"):
        table.add_row(name, *(f"{value:.3g}" for value in row[name].values()))
    what = (
        f"{row['method']} reads keys at {row['site']}; radius {row['radius']:.4g}, the mean over {row['facts']} facts"
    )
    return Group(table, Text("\n".join([what, *(f"drawn in {path}" for path in row["picture"])]), "dim"))


def _ensemble(row: Json) -> Iterator[RenderableType]:
    yield Text(f"{row['prompt']} → {row['target']}: {row['size']} of {row['candidates']:,} neurons")
    table = table_of("layer", "share", "neurons that say it most")
    for layer, share in row["share"].items():
        known = row["ensemble"][layer]
        best = sorted(zip(known["score"], known["index"], strict=True), reverse=True)[:5]
        table.add_row(layer, f"{share:.3f} {'▇' * round(share * 20)}", ", ".join(f"{i} ({s:.3g})" for s, i in best))
    yield table


def _traced(row: Json) -> Iterator[RenderableType]:
    effect = row["effect"]["mlp"]
    peak = max(max(line) for line in effect) or 1.0
    what = f"{row['prompt']} → {row['target']}" if row["facts"] == 1 else f"mean of {row['facts']} facts"
    yield Text(f"{what}: P(answer) {row['clean']:.3f}, with the subject noised {row['corrupted']:.3f}")
    yield Text("What restoring the MLP's output brings back, by token and layer:")
    table = table_of("", *(str(layer) for layer in range(len(effect[0]))))
    for token, line in zip(row["tokens"], effect, strict=True):
        table.add_row(Text(token.strip() or repr(token), no_wrap=True), *(_shade(value, peak) for value in line))
    yield table
    yield Text(f"most at the subject's last token: layer {row['layer']}")


def _shade(value: float, peak: float) -> str:
    return f"{value if abs(value) > 0.005 else 0:.2f}{'·░▒▓█'[max(0, min(4, int(5 * value / peak)))]}"
