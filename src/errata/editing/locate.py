"""Where a model keeps a fact: by the attribution of its neurons, or by causal tracing.

found = locate(editor, "The capital of France is", "France", "Paris")
found.to_dict()["share"]                                  # each layer's share of the ensemble
found.draw("france.svg")                                  # layers × neurons; needs errata-lm[plot]

found = locate(editor, "The capital of France is", "France", "Paris", method="trace")
found.draw("france.png")                                  # the heat maps of tokens × layers
found.remember(editor)                                    # its layer is this model's default from now on
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F

from errata import methods
from errata.editing.editor import Editor
from errata.editing.pictures import picture
from errata.editing.writing import check_fits
from errata.errors import BadConfig, InputError, did_you_mean
from errata.fact import Fact
from errata.methods.kne import Kne, shares
from errata.methods.shared.neurons import old_answers
from errata.model.lm import LM
from errata.solve.causal import Traced, Tracing, average, trace
from errata.stats.remembered_layer import remember

BINS = 1024  # columns of the map; a wider layer is shown by the strongest neuron of each bin


@dataclass(frozen=True, slots=True)
class Located:
    """Where a fact was found.

    Args:
        method: "kne" or "trace".
        fact: what was asked; the first of them, where a trace is the mean of many.
        result: what was found, JSON-able. For kne: `share` (layer → share of the ensemble), `ensemble` (layer → its
            neurons and their scores), `size`, `candidates`, `inner` (neurons of a layer), `map` (layer → scores, at most
            `BINS`). For trace: `tokens`, `subject` (first and last token), `facts` (how many), `clean` and `corrupted`
            probability, `layer`, `effect` (state → tokens × layers).
        notes: what to know about it.
    """

    method: str
    fact: Fact
    result: Mapping[str, Any]
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return everything as one JSON-able dictionary."""
        asked = {"prompt": self.fact.prompt, "subject": self.fact.subject, "target": self.fact.target}
        return {"method": self.method, **asked, **self.result, "notes": list(self.notes)}

    @property
    def layer(self) -> int:
        """The layer with most of the ensemble, or the one whose restored MLP brings most of the answer back."""
        if self.method == "trace":
            return int(self.result["layer"])
        return int(max(self.result["share"], key=self.result["share"].__getitem__))

    def remember(self, editor: Editor) -> Path:
        """Make the layer this model's default, where no layer is known for it; return the file it is kept in."""
        return remember(editor.lm, self.layer)

    def draw(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture as PNG or SVG, by the file's name.

        Raises:
            InputError: another kind of file, or matplotlib is not installed.
        """
        drawn = _draw_trace if self.method == "trace" else _draw_ensemble
        return picture(path, lambda figure: drawn(figure, self))


def locate(
    editor: Editor, prompt: str, subject: str, target: str = "", method: Literal["kne", "trace"] = "kne", **options: Any
) -> Located:
    """Find where the model, as it stands, keeps a fact.

    Args:
        target: the answer to look for; empty takes what the model says.
        options: settings of `Kne` (``p``, ``m``, ``path``, ``layers``, …), or of `Tracing` (``samples``, ``noise``,
            ``window``, ``seed``).

    Raises:
        BadFact: the subject is not in the prompt, or that is too long. InputError: nothing is said, or there is no such method.
        BadConfig: an unknown setting. UnsupportedModel: the model has no neurons of that kind, or cannot be traced.
    """
    said = editor.ask(prompt, max_new_tokens=8, top=0).text.strip(" .,:;\"'")
    if not (target := target or said):
        raise InputError(f"the model says nothing after {prompt!r}; give the answer to look for.")
    lm, fact = editor.lm, Fact(prompt=prompt, subject=subject, target=target)
    check_fits(lm, [fact])
    if method == "kne":
        return _ensemble(lm, fact, options)
    if method != "trace":
        raise InputError(f"no way to locate called {method!r}; use kne or trace.")
    return _as_located(fact, trace(lm, fact, _tracing(options)))


def _ensemble(lm: LM, fact: Fact, options: Mapping[str, Any]) -> Located:
    kne = methods.make("kne", {"layers": "all", **options})  # where it lies is looked for everywhere
    assert isinstance(kne, Kne)
    scores, chosen = kne.resolve(lm).locate(lm, [fact])
    neurons = {}
    for site, mask in chosen.items():
        columns = mask if mask.ndim == 1 else mask.any(0)
        index = columns.nonzero()[:, 0]
        score = _columns(scores[site])[index.to(scores[site].device)]
        neurons[str(site.layer)] = {"index": index.tolist(), "score": _rounded(score)}
    counted = shares(chosen)
    share: Mapping[str, float] = counted["share"]  # type: ignore[assignment]
    result = {
        "share": {name.partition(".")[0]: value for name, value in share.items()}, "ensemble": neurons,
        "size": counted["ensemble"], "candidates": counted["candidates"], "inner": lm.inner,
        "map": {str(site.layer): _rounded(_binned(_columns(score))) for site, score in scores.items()},
    }  # fmt: skip
    return Located("kne", fact, result)


def _columns(score: Tensor) -> Tensor:
    """Return a score for every column: the sum over its entries, where entries were scored."""
    return score if score.ndim == 1 else score.sum(0)


def _binned(score: Tensor) -> Tensor:
    width = -(-len(score) // BINS)
    bins = F.pad(score, (0, -len(score) % width)).reshape(-1, width)
    return bins.gather(1, bins.abs().argmax(1, keepdim=True))[:, 0]


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.4g}") for value in values.tolist()]


def trace_all(editor: Editor, facts: Sequence[Fact], **options: Any) -> Located:
    """Return the mean trace of many facts, tokens grouped by place: one fact's is noisy, their mean names a layer.

    Args:
        facts: traced is the answer the model gives now: a fact's `truth`, or what is said.
        options: as `locate` with ``method="trace"``.

    Raises:
        InputError: there are none. BadConfig, UnsupportedModel: as `locate`.
    """
    if not facts:
        raise InputError("there are no facts to trace; give some.")
    how = _tracing(options)
    check_fits(editor.lm, facts)
    answers = old_answers(editor.lm, facts)
    found = [trace(editor.lm, replace(f, target=a), how) for f, a in zip(facts, answers, strict=True)]
    return _as_located(facts[0], [average(traces) for traces in zip(*found, strict=True)], len(facts))


def _tracing(options: Mapping[str, Any]) -> Tracing:
    known = [f.name for f in fields(Tracing)]
    for name in options:
        if name not in known:
            raise BadConfig(f"tracing has no setting {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return Tracing(**options)


def _as_located(fact: Fact, found: Sequence[Traced], count: int = 1) -> Located:
    first = found[0]
    mlp = next(t for t in found if t.state == "mlp")
    notes = []
    if first.clean < 2 * first.corrupted:
        notes.append(
            "noise on the subject hardly changes the answer: the map says little about where this fact is kept."
        )
    result = {
        "tokens": list(first.tokens), "subject": list(first.subject), "clean": first.clean, "layer": mlp.layer,
        "corrupted": first.corrupted, "facts": count, "effect": {t.state: [_rounded(row) for row in t.effect] for t in found},
    }  # fmt: skip
    return Located("trace", fact, result, tuple(notes))


def _draw_ensemble(figure: Any, located: Located) -> None:
    """Layers × neurons, blue against and red for the answer, the ensemble ringed; beside it the layers' shares."""
    result = located.result
    layers = list(result["map"])
    figure.set_size_inches(10, 1.2 + 0.3 * len(layers))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 1))
    rows = [result["map"][layer] for layer in layers]
    # Signed square roots, or the few strongest neurons leave everything else white.
    shown = [[abs(v) ** 0.5 * (1 if v > 0 else -1) for v in row] for row in rows]
    peak = max((abs(v) for row in shown for v in row), default=0.0) or 1.0
    width = -(-result["inner"] // BINS)
    left.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-peak, vmax=peak, interpolation="nearest")
    for place, layer in enumerate(layers):
        index = [i / width for i in result["ensemble"][layer]["index"]]
        left.scatter(index, [place] * len(index), s=18, facecolors="none", edgecolors="black", linewidths=0.7)
    left.set(xlabel=f"neuron{'' if width == 1 else f' / {width}'}", ylabel="layer", yticks=range(len(layers)))
    left.set_yticklabels(layers)
    left.set_title(
        f"{located.fact.prompt} → {located.fact.target}: {result['size']} of {result['candidates']:,} neurons"
    )
    right.barh(range(len(layers)), [100 * result["share"][layer] for layer in layers], color="0.35")
    right.set(xlabel="% of the ensemble", title="share")


_TITLES = {"block": "hidden state", "mlp": "MLP output", "attention": "attention output"}


def _draw_trace(figure: Any, located: Located) -> None:
    """One heat map of tokens × layers for each kind of state, the subject's tokens starred."""
    result = located.result
    first, last = result["subject"]
    labels = [(t.strip() or repr(t)) + "*" * (first <= i <= last) for i, t in enumerate(result["tokens"])]
    figure.set_size_inches(4 * len(result["effect"]), 1.6 + 0.28 * len(labels))
    panels: Sequence[Any] = figure.subplots(1, len(result["effect"]), sharey=True, squeeze=False)[0]
    for panel, (state, effect) in zip(panels, result["effect"].items(), strict=True):
        image = panel.imshow(effect, aspect="auto", cmap="Purples", vmin=0, interpolation="nearest")
        panel.set(title=f"{_TITLES[state]} restored", xlabel="layer", yticks=range(len(labels)))
        panel.set_yticklabels(labels)
        figure.colorbar(image, ax=panel, label="Δ P")
    what = located.fact.target if result["facts"] == 1 else f"answer, mean of {result['facts']} facts"
    figure.suptitle(f"P({what}): clean {result['clean']:.3f}, subject noised {result['corrupted']:.3f}")
