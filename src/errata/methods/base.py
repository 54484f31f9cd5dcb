"""What a method is: a frozen set of settings with ``solve(lm, facts, past) -> Edit``.

A method is one file in this folder and exists by being there. It never writes to the model, keeps no state, and gives
the same bytes for the same inputs and seed; what later edits need to know is carried in the edit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from typing import Any, ClassVar, Literal, Self, TypeVar

import torch
from torch import Tensor

from errata import plugins
from errata.config import to_dict
from errata.delta import Change, Graft, Site
from errata.edit import Edit, Report
from errata.errors import BadConfig, BadFact, NotFinite, UnknownSite, UnsupportedModel
from errata.fact import Fact, check_consistent
from errata.model.fold import ground_of
from errata.model.lm import LM
from errata.model.trace import no_grads_kept
from errata.stats.corpus import suited
from errata.stats.parts import share
from errata.stats.profile import kept
from errata.stats.store import Key, Progress, described, ensure

Auto = Literal["auto"]  # a setting that `resolve` fills in
Role = Literal["up", "down", "attention"]
_Value = TypeVar("_Value")
BELOW = "below"  # in the carry of edits whose deltas depend on which edits of their method stand below them
CLASSIFY = "grace, lora, melo or wise"  # the methods for texts that are classified
PARENTS = 32  # ids of the edits below that an edit names; the state as a whole is named by one hash


@dataclass(frozen=True, eq=False, slots=True)
class Solution:
    """What a method's mathematics gives: deltas, what later edits need, what happened, and what statistics it found to read."""

    deltas: Mapping[Site, Change]
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    prefixes: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    statistics: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Settings common to all methods.

    A setting left at "auto" is taken from `tuned` for a published model and from the model's own size otherwise;
    `resolve` fills it in, and the edit records the result.
    """

    seed: int = field(default=0, metadata={"help": "what random numbers are drawn from"})

    name: ClassVar[str]
    batched: ClassVar[bool] = False  # one edit for a list of facts
    anywhere: ClassVar[bool] = False  # also where no token of a prompt is: in the decoder that an encoder stands before
    located: ClassVar[bool] = True  # a fact is looked up at its subject, so it must name one
    in_context: ClassVar[bool] = False  # nothing is written: the fact is told before the prompts that ask about it
    kinds: ClassVar[tuple[str, ...]] = ("decoder", "encoder-decoder")
    tuned: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def __post_init__(self) -> None:
        check(self)

    def resolve(self, lm: LM) -> Self:
        """Return the method with every "auto" filled in for `lm`: by its profile if it has one, as published, or by size.

        Raises:
            UnsupportedModel: the method cannot work on this kind of model. UnknownSite: a layer it does not have.
        """
        if lm.row.kind not in self.kinds:
            kinds = " and ".join(self.kinds)
            use = f" Use {CLASSIFY}." if lm.row.kind == "classifier" else ""
            raise UnsupportedModel(f"{self.name} works on {kinds} models; {lm.name} is of kind {lm.row.kind}.{use}")
        settings = {
            "corpus": self.text(lm),
            **self.automatic(lm),
            **self.tuned.get(lm.published, {}),
            **kept(lm).settings.get(self.name, {}),
        }
        found = replace(self, **{k: v for k, v in settings.items() if getattr(self, k, None) == "auto"})
        layers = lm.depth if self.anywhere else lm.reachable
        for site in found.sites():
            if not 0 <= site.layer < layers:
                raise UnknownSite(f"{lm.name} has layers 0 to {layers - 1}; set one of them, not {site.layer}.")
            lm.module(site)
        return found

    def text(self, lm: LM) -> str:
        """Return the name of the corpus that ordinary text is taken from where nobody says."""
        return suited(lm)

    def automatic(self, lm: LM) -> Mapping[str, Any]:
        """Return values for settings left at "auto", from the model's size."""
        return {}

    @abstractmethod
    def sites(self) -> tuple[Site, ...]:
        """Return the sites a resolved method writes to."""

    def prepare(self, lm: LM, progress: Progress | None = None) -> None:
        """Compute the statistics `solve` will ask for, if they are not there yet; raises what `resolve` raises."""
        for named in self.resolve(lm).wanted(lm):
            ensure(lm, named, progress)

    def wanted(self, lm: LM) -> list[Mapping[Site, Key]]:
        """Return by what the statistics that a resolved method reads from disk are known: of each kind, by site."""
        return []

    def statistics(self, lm: LM) -> dict[str, dict[str, Any]]:
        """Return, by site, the name of each statistic of the base that `compute` reads, and how much was read for it."""
        return {}

    def collect(self, lm: LM, progress: Progress | None = None, part: str = "") -> dict[str, dict[str, Any]]:
        """Compute the statistics the method needs on a model, if they are not there yet; return by site how much was read.

        Args:
            part: ``"I/N"`` reads one of N parts, here or on another machine; ``"all/N"`` adds them up, once their files lie
                in one directory. The corpus and a number of tokens must be the same for every part, and for the edits
                that are to use the sum: parts cannot know when the whole has settled.

        Raises:
            BadConfig: the part is none, no number of tokens is set, or the method keeps no statistics.
            StatsMissing: a part that is to be added up is not there.
        """
        how = self.resolve(lm)
        wanted = how.wanted(lm)
        if part and not wanted:
            raise BadConfig(f"{self.name} keeps no statistics of a text; leave the part out.")
        if part:
            return share(lm, wanted, part, progress)
        how.prepare(lm, progress)
        return {label: row for named in wanted for label, row in described(lm, named).items()}

    @abstractmethod
    def compute(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit]) -> Solution:
        """Do the mathematics; called by `solve` on a resolved method with at least one fact."""

    @classmethod
    def rebuild(cls, lm: LM, edits: Sequence[Edit]) -> list[Edit]:
        """Return all edits that stand, those of this method with the deltas they have on top of what stands below them.

        For most methods that is what was stored. A method whose edits share a solution derives here what an edit gives
        once one below it was dropped; its edits say so by carrying `BELOW`.
        """
        return list(edits)

    def solve(self, lm: LM, facts: Sequence[Fact], past: Sequence[Edit] = ()) -> Edit:
        """Return the edit that writes `facts` into `lm` as it stands, leaving `lm` untouched.

        Args:
            past: the edits that stand, oldest first.

        Raises:
            BadFact: facts contradict each other, or one names no subject and the method needs it.
            BadConfig: several facts, and the method writes one at a time.
            UnsupportedModel, UnknownSite: the method or a layer does not fit the model. NotFinite: the update is not.
        """
        check_consistent(facts)
        method = self.resolve(lm)
        if len(facts) > 1 and not self.batched:
            raise BadConfig(f"{self.name} writes one fact at a time; give them one by one, or use a batch method.")
        if self.located and (nameless := [fact.prompt for fact in facts if not fact.subject]):
            raise BadFact(
                f"{self.name} looks a fact up at its subject, and {nameless[0]!r} names none: give it (as it stands in the "
                "prompt), or use a method that needs none, such as lora, melo or ft."
            )
        with no_grads_kept(lm.model):
            solution = method.compute(lm, facts, past) if facts else Solution({})
        for site, delta in solution.deltas.items():
            if not delta.isfinite():
                raise NotFinite(f"{self.name} gave an update at {site} that is not finite; nothing was changed.")
        return Edit(
            method=self.name, config=to_dict(method), facts=tuple(facts), base=lm.fingerprint, seed=self.seed,
            parents=tuple(e.id for e in past[-PARENTS:]), ground=ground_of(lm, past), prefixes=solution.prefixes,
            deltas={site: stored(delta, lm) for site, delta in solution.deltas.items()},
            carry={name: t.detach().cpu().contiguous() for name, t in solution.carry.items()},
            report=Report(solution.report).plus(
                norm_ratio=ratios(lm, solution.deltas), statistics={**method.statistics(lm), **solution.statistics}
            ),
            versions={**versions(), **plugins.made_by("errata.methods", type(self).__module__)},
        )  # fmt: skip


def filled(value: _Value | Auto) -> _Value:
    """Return a setting of a resolved method, in which nothing is "auto" any more."""
    assert value != "auto", "resolve the method first"
    return value


def versions() -> dict[str, str]:
    """Return the versions of the libraries a result depends on."""
    return {"errata": version("errata-lm"), **{name: version(name) for name in ("torch", "transformers")}}


def step_for(matrix: Tensor, parts: int) -> float:
    """Return a step of Adam: one of so many parts of the root mean square of what it moves, to two digits."""
    return float(f"{float(matrix.detach().double().square().mean().sqrt()) / parts:.2g}")


def layer_at(lm: LM, share: float, role: str = "down") -> int:
    """Return the layer at a fraction of the depth a prompt can be found in, or the nearest that has a matrix of a role."""
    wanted = min(lm.reachable - 1, max(0, round(share * lm.reachable)))
    return min(with_role(lm, range(lm.reachable), role) or [wanted], key=lambda layer: (abs(layer - wanted), layer))


def roles_of(lm: LM, roles: tuple[Role, ...] | Auto) -> tuple[Role, ...]:
    """Return the roles said, or the feed-forward part's; the attention's where half of the blocks or more have no dense one."""
    if roles != "auto":
        return roles
    dense, attention = (len(with_role(lm, range(lm.depth), *names)) for names in (("up", "down"), ("attention",)))
    return ("up", "down") if 2 * dense > lm.depth or not attention else ("attention",)


def with_role(lm: LM, layers: Iterable[int], *roles: str) -> tuple[int, ...]:
    """Return the layers that have a matrix of every role: blocks of a hybrid differ, and experts have no dense one."""
    return tuple(layer for layer in layers if all(lm.has(Site(layer, role)) for role in roles))


def check(settings: Any) -> None:
    """Look at every setting of a frozen dataclass.

    Raises:
        BadConfig: a number outside its range, or a list that is empty or names something twice.
    """
    for f in fields(settings):
        value = getattr(settings, f.name)
        if isinstance(value, tuple) and (not value or len(set(value)) < len(value)):
            raise BadConfig(f"{f.name} = {value} is empty or names something twice; give each once.")
        if not isinstance(value, int | float):
            continue
        if "least" in f.metadata and not value >= f.metadata["least"]:
            raise BadConfig(f"{f.name} = {value} makes no sense; it is at least {f.metadata['least']}.")
        if "above" in f.metadata and not value > f.metadata["above"]:
            raise BadConfig(f"{f.name} = {value} makes no sense; it is above {f.metadata['above']}.")


def stored(delta: Change, lm: LM) -> Change:
    """Return the delta as an edit keeps it, on the CPU, float32 unless the model itself is finer."""
    if isinstance(delta, Graft):
        return replace(delta, state={k: t.detach().cpu().contiguous() for k, t in delta.state.items()})
    dtype = torch.promote_types(next(lm.model.parameters()).dtype, torch.float32)
    moved = {f.name: getattr(delta, f.name).detach().cpu() for f in fields(delta)}
    return replace(delta, **{k: (t.to(dtype) if t.is_floating_point() else t).contiguous() for k, t in moved.items()})


def ratios(lm: LM, deltas: Mapping[Site, Change]) -> dict[str, float]:
    """Return ‖ΔW‖ / ‖W‖ of the base at each site."""
    sums = {s: d for s, d in deltas.items() if not isinstance(d, Graft)}
    return {str(s): d.norm() / float(lm.weights.base(s).detach().double().norm()) for s, d in sums.items()}
