"""The contract: what every method promises on every architecture, found and checked without naming any.

1 solving changes nothing in the model    2 same inputs, same bytes    3 applied, the target becomes likelier
4 drop and replay are exact               5 files and settings survive  6 no state between models
7 bad input is our error                  8 the docstring says where it comes from and how it differs

pytest tests/contract
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from errata import methods
from errata.config import from_dict, from_flags, from_toml, to_dict, to_toml
from errata.delta import Graft
from errata.edit import Edit
from errata.errors import BadConfig, BadFact, UnknownSite, UnsupportedModel
from errata.fact import Fact
from errata.methods import Method
from errata.methods.shared.locate_then_edit import LocateThenEdit
from errata.model.lm import LM
from errata.model.query import Query
from tests import networks, tiny
from tests.conftest import LONGER

# A random model carries nothing from a subject to the end of its prompt, so these prompts end with theirs; and what an
# update does beside its aim is luck there, so the seed is one with which it does not hide the aim.
SEED, OTHER_SEED = 2, 4
FACTS = (
    Fact(prompt="What is the capital of France", subject="France", target="Rome"),
    Fact(prompt="The home town of Anna Lindgren", subject="Anna Lindgren", target="Paris"),
    Fact(prompt="The instrument of Carla Moreno", subject="Carla Moreno", target="tuba"),
)
# Here every method writes two facts and is solved twice. Of other architectures, whose passes are tested one by one in
# tests/model, each meets a third of the methods, once, and each method a third of them: the whole matrix is
# benchmarks/architectures.py, and this file with ERRATA_LAWS set.
WHOLE = tiny.EDITABLE if LONGER else ("falcon", "gemma2", "gpt2", "llama", "t5")
SMALL = {"steps": 10, "m": 3, "tokens": 400, "weight": 1.0, "directions": 2, "rank": 8}
VARIANTS = {
    "ft": [{"variant": "last", "bound": 0.05}, {"constraint": "o-edit+"}],
    "locft": [{"size": 1, "constraint": "o-edit", "corpus": "primer"}],
    "memit": [{"history": True}, {"layers": (1,)}, {"constraint": "o-edit+"}, {"restrain": "prune"}],
    "oedit": [{"projection": "project"}, {"projection": "rescaled", "protect": "implicit"}],
    "alphaedit": [{"threshold": 0.5, "penalty": 0.1}],
    "emmet": [{"epsilon": 0.0, "constraint": "o-edit"}],
    "ledger": [{"layers": (1,), "constraint": "o-edit+"}],
    "rome": [
        {"consistent_keys": False},
        {"layer": 2, "lr": 0.3},
        {"constraint": "o-edit"},
    ],
}
Solved = Callable[..., "Case"]


def build(name: str, seed: int, dtype: torch.dtype = torch.float32) -> LM:
    """Return a tiny model that has what methods need to have been trained for it."""
    return (
        networks.give(tiny.build(name, seed, dtype), FACTS) if name in tiny.EDITABLE else tiny.build(name, seed, dtype)
    )


def settings_of(name: str) -> dict[str, Any]:
    return {field.name: field for field in fields(methods.get(name))}


def small(name: str, **options: Any) -> Method:
    """Return the method with settings that take a moment."""
    known = settings_of(name)
    return methods.make(name, {**{k: v for k, v in SMALL.items() if k in known}, **options})


def grouped(how: Method, name: str) -> list[tuple[Fact, ...]]:
    """Return what is written at once: two facts as a batch, or one by one; one alone where the rest is a sample."""
    return [FACTS[:2]] if how.batched else [(fact,) for fact in FACTS[: 2 if name in WHOLE else 1]]


def snapshot(lm: LM) -> dict[str, Any]:
    """Return everything about a model that a method might disturb, and the process's random numbers."""
    model, backend = lm.model, lm.tokenizer.backend_tokenizer
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        **{name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())},
        "grad flags": [p.requires_grad for p in model.parameters()],
        "gradients": [p.grad is None for p in model.parameters()],
        "hooks": [len(getattr(m, kind)) for m in model.modules() for kind in hooks],
        "attributes": [(sorted(vars(m)), m.training) for m in model.modules()],
        "settings": (model.config.to_dict(), model.generation_config.to_dict() if model.can_generate() else None),
        "tokenizer": {
            k: v for k, v in vars(lm.tokenizer).items() if isinstance(v, str | int | bool | list | tuple | None)
        },
        "tokenizer file": (backend.to_str(), backend.padding, backend.truncation, lm.tokenizer.padding_side),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1].tolist(),
        "grad mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
    }


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return the names of what differs, bit for bit."""
    same = {k: torch.equal(v, after[k]) if isinstance(v, torch.Tensor) else v == after[k] for k, v in before.items()}
    return [name for name, equal in same.items() if not equal] + sorted(after.keys() - before.keys())


def logits(lm: LM) -> torch.Tensor:
    with torch.no_grad():
        return lm.answer_logits(lm.tokens.batch([Query(f.prompt, f.target) for f in FACTS]))


def losses(lm: LM, facts: tuple[Fact, ...], edit: Edit) -> list[float]:
    """Return each fact's loss after the contexts the edit was written in, the bare prompt among them, on average."""
    contexts = edit.prefixes or ("",)
    asked = [Query(f.prompt, f.target).after(c) for f in facts for c in contexts]
    found = torch.tensor([float(-logp.mean()) for logp in lm.logprobs(asked)]).reshape(len(facts), -1)
    return found.mean(1).tolist()


@dataclass(frozen=True)
class Case:
    """One method on one model: solved once, looked at from many sides."""

    lm: LM
    how: Method
    groups: list[tuple[Fact, ...]]
    edits: list[Edit]
    changed: list[str]


@pytest.fixture(scope="module")
def solved() -> Solved:
    """Return the function that solves a method on an architecture, once for all tests."""
    made: dict[object, Case] = {}

    def case(method: str, name: str, dtype: torch.dtype = torch.float32, **options: Any) -> Case:
        key = (method, name, dtype, tuple(options.items()))
        if key not in made:
            lm, how = build(name, SEED, dtype), small(method, **options)
            before, groups = snapshot(lm), grouped(how, name)
            edits = [how.solve(lm, group) for group in groups]
            made[key] = Case(lm, how, groups, edits, changed(before, snapshot(lm)))
        return made[key]

    return case


@dataclass(frozen=True)
class Again:
    """The same fact solved once more, on a model just built and with other random numbers in the process."""

    lm: LM
    edit: Edit


@pytest.fixture(scope="module")
def again(solved: Solved) -> Callable[[str, str], Again]:
    """Return the function that solves a method's first fact again, after `solved`, once for all tests."""
    made: dict[object, Again] = {}

    def anew(method: str, name: str) -> Again:
        if (method, name) not in made:
            case, lm = solved(method, name), build(name, SEED)
            torch.manual_seed(123)
            made[method, name] = Again(lm, case.how.solve(lm, case.groups[0]))
        return made[method, name]

    return anew


every_method = pytest.mark.parametrize("method", methods.names())
on_gpt2, on_llama = (pytest.mark.parametrize("name", [name]) for name in ("gpt2", "llama"))
ON_EXPERTS = ("grace", "ike", "lora", "melo", "rome", "scr")  # what needs no dense matrix, and what writes experts


def pairs(everywhere: bool) -> list[tuple[str, str]]:
    """Return methods with architectures: all where `WHOLE`, elsewhere a sample, whose turn it is by their numbers."""
    found = []
    for number, name in enumerate((*tiny.EDITABLE, *tiny.EXPERTS)):
        able = methods.names() if name in tiny.EDITABLE else ON_EXPERTS
        turn = [m for i, m in enumerate(methods.names()) if (i + number) % (3 if everywhere else 9) == 0]
        found += [(m, name) for m in able if name in (*WHOLE, *tiny.EXPERTS) or m in ("rome", *turn)]
    return found


every_pair, sampled_pair = (
    pytest.mark.parametrize(("method", "name"), pairs(everywhere), ids=lambda part: part)
    for everywhere in (True, False)
)
every_variant = pytest.mark.parametrize(
    ("method", "options"), [(m, o) for m, all_ in VARIANTS.items() if m in methods.names() for o in all_]
)


# ------------------------------------------------------------------ 1: nothing changes


@every_pair
def test_solving_changes_nothing(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    assert case.changed == []
    assert all(edit.deltas for edit in case.edits)


@every_variant
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_solving_changes_nothing_with_other_settings(
    solved: Solved, method: str, options: dict[str, Any], name: str
) -> None:
    assert solved(method, name, **options).changed == []


@every_method
def test_a_failed_solve_changes_nothing(method: str) -> None:
    lm, how = build("llama", SEED), small(method)
    with torch.no_grad():
        lm.model.model.layers[2].mlp.gate_proj.weight[0, 0] = float("nan")
    before = {k: v for k, v in snapshot(lm).items() if "layers.2.mlp.gate_proj" not in k}
    with pytest.raises(Exception, match=r"finite|diverged"):
        how.solve(lm, FACTS[:1])
    assert changed(before, {k: v for k, v in snapshot(lm).items() if k in before}) == []


def test_the_random_numbers_of_the_process_are_left_alone() -> None:
    # In a process of its own: the type checks of the tests draw from `random` themselves.
    code = """
import random
import numpy, torch
from tests.contract.test_contract import FACTS, SEED, build, methods, small
for name in ("llama", "t5"):
    for method in methods.names():
        lm = build(name, SEED)
        before = random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()
        small(method).solve(lm, FACTS[:1])
        after = random.getstate(), torch.get_rng_state().tolist(), numpy.random.get_state()[1].tolist()
        assert after == before, method
"""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


# ------------------------------------------------------------------ 2 and 6: the same bytes, whatever went before


@sampled_pair
def test_same_inputs_same_bytes(solved: Solved, again: Callable[[str, str], Again], method: str, name: str) -> None:
    assert again(method, name).edit.to_bytes() == solved(method, name).edits[0].to_bytes()


@every_method
@pytest.mark.parametrize("name", ["falcon", "gpt2", "llama", "t5"])
def test_what_was_solved_before_does_not_matter(
    solved: Solved, again: Callable[[str, str], Again], method: str, name: str
) -> None:
    case, fresh = solved(method, name), again(method, name).lm
    on_other = case.how.solve(build(name, OTHER_SEED), [FACTS[2]])
    not_applied = case.how.solve(fresh, [FACTS[2]])
    edit = case.how.solve(fresh, case.groups[0])  # A on another model, C on this one, then B: B alone
    assert edit.to_bytes() == case.edits[0].to_bytes()
    assert len({edit.id, on_other.id, not_applied.id}) == 3


@every_method
@on_llama
def test_the_seed_counts(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    edit = replace(case.how, seed=1).solve(case.lm, case.groups[0])
    assert (edit.seed, edit.config["seed"]) == (1, 1)
    assert edit.id != case.edits[0].id


@every_method
@on_gpt2
def test_the_callers_grad_mode_and_flags_do_not_matter(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    lm = build(name, SEED)
    lm.model.requires_grad_(False)
    with torch.no_grad():
        assert case.how.solve(lm, case.groups[0]).to_bytes() == case.edits[0].to_bytes()


# ------------------------------------------------------------------ 3: it does what it is for


def check_it_is_told(case: Case) -> None:
    """What a random model makes of a text is luck: the promise is that it reads the fact before what asks about it."""
    for group, edit in zip(case.groups, case.edits, strict=True):
        (graft,) = edit.deltas.values()
        for fact, item in zip(group, graft.config["items"], strict=True):
            told = f"{graft.config['frame'].replace('{told}', item['text'])} {fact.prompt}"
            assert f"{fact.prompt} {fact.target}" in told
            asked, elsewhere = Query(fact.prompt, fact.target), Query("The rivers of Peru are", "long")
            case.lm.weights.stand([])
            wanted = case.lm.logprobs([replace(asked, prompt=told), elsewhere])
            case.lm.weights.stand([edit.deltas])
            if item["odds"] is None:
                assert all(map(torch.equal, case.lm.logprobs([asked, elsewhere]), wanted))
    case.lm.weights.stand([])


@every_pair
def test_the_target_becomes_likelier(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    if case.how.in_context:
        check_it_is_told(case)
        return
    for group, edit in zip(case.groups, case.edits, strict=True):
        case.lm.weights.stand([])
        before = losses(case.lm, group, edit)
        case.lm.weights.stand([edit.deltas])
        after = losses(case.lm, group, edit)
        case.lm.weights.stand([])
        assert all(new < old for new, old in zip(after, before, strict=True)), (before, after)


@every_variant
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_target_becomes_likelier_with_other_settings(
    solved: Solved, method: str, options: dict[str, Any], name: str
) -> None:
    test_the_target_becomes_likelier(lambda m, n: solved(m, n, **options), method, name)


# ------------------------------------------------------------------ 4: exactly back, exactly again


def check_drop_and_replay(case: Case) -> None:
    weights, base = case.lm.weights, snapshot(case.lm)
    # What stands beside a matrix leaves it as it is, and shows in the logits only.
    sites = {site for edit in case.edits for site, delta in edit.deltas.items() if not isinstance(delta, Graft)}
    weights.stand([edit.deltas for edit in case.edits])
    edited, said = {site: weights[site].clone() for site in sites}, logits(case.lm)
    assert all(not torch.equal(edited[site], weights.base(site)) for site in sites)
    weights.stand([case.edits[-1].deltas])
    weights.stand([])
    assert not changed(base, snapshot(case.lm))
    assert not torch.equal(said, logits(case.lm))
    weights.stand([edit.deltas for edit in case.edits])
    assert all(torch.equal(edited[site], weights[site]) for site in sites)
    assert torch.equal(said, logits(case.lm))
    weights.stand([])


@every_pair
def test_drop_and_replay_are_exact(solved: Solved, method: str, name: str) -> None:
    check_drop_and_replay(solved(method, name))


@every_method
@on_llama
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_drop_and_replay_are_exact_in_any_precision(solved: Solved, method: str, name: str, dtype: torch.dtype) -> None:
    case = solved(method, name, dtype)
    assert case.changed == []
    check_drop_and_replay(case)


@every_method
@on_gpt2
def test_an_edit_on_top_of_another_leaves_that_one_standing(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    lm, first = case.lm, case.edits[0]
    lm.weights.stand([first.deltas])
    standing = snapshot(lm)
    second = case.how.solve(lm, [FACTS[2]], [first])
    assert not changed(standing, snapshot(lm))
    assert (second.parents, second.base) == ((first.id,), lm.fingerprint)
    assert second.ground
    assert not first.ground
    lm.weights.stand([])


# ------------------------------------------------------------------ 5: files and settings


@every_pair
def test_a_saved_edit_is_the_same_edit(solved: Solved, method: str, name: str, tmp_path: Path) -> None:
    case = solved(method, name)
    edit = case.edits[0]
    edit.save(tmp_path / "edit.safetensors")
    again = Edit.load(tmp_path / "edit.safetensors")
    assert (again.id, again.meta()) == (edit.id, edit.meta())
    assert again.to_bytes() == edit.to_bytes()
    assert all(not d.tensors()[k].is_floating_point() or d.tensors()[k].dtype == torch.float32
               for d in edit.deltas.values() if not isinstance(d, Graft) for k in d.tensors())  # fmt: skip
    case.lm.weights.stand([edit.deltas])
    wanted = logits(case.lm)
    case.lm.weights.stand([again.deltas])
    assert torch.equal(logits(case.lm), wanted)
    case.lm.weights.stand([])
    assert not torch.equal(logits(case.lm), wanted)


def flags(settings: dict[str, Any]) -> list[str]:
    def text(value: Any) -> str:
        return ",".join(map(str, value)) if isinstance(value, list) else "none" if value is None else str(value)

    return [f"{key}={text(value)}" for key, value in settings.items()]


@every_method
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_the_recorded_settings_are_the_method(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    settings, resolved = dict(case.edits[0].config), case.how.resolve(case.lm)
    by_fact = ("lr", "radius")  # what "auto" is, each edit finds for its facts
    assert "auto" not in {v for k, v in settings.items() if k not in by_fact and isinstance(v, str)}
    kind = methods.get(method)
    assert from_dict(kind, settings) == resolved
    assert from_toml(kind, to_toml(resolved)) == resolved
    assert from_flags(kind, flags(settings)) == resolved
    assert to_dict(resolved) == settings
    for default in (kind(), from_toml(kind, to_toml(kind())), from_flags(kind, flags(to_dict(kind())))):
        assert default == kind()


@every_method
def test_settings_have_help(method: str) -> None:
    for name, field in settings_of(method).items():
        assert field.metadata.get("help"), f"{method}: {name} has no help"


# ------------------------------------------------------------------ 7: bad input


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (m, n)
        for n in tiny.CONFIGS
        for m in methods.names()
        if n not in tiny.EDITABLE and not (n in tiny.EXPERTS and m in ON_EXPERTS)
    ],
)
def test_where_it_cannot_work_it_says_so(method: str, name: str) -> None:
    lm, how = tiny.build(name), small(method)
    before = snapshot(lm)
    for refused in (lambda: how.solve(lm, FACTS[:1]), lambda: how.solve(lm, []), lambda: how.prepare(lm)):
        with pytest.raises(UnsupportedModel) as caught:
            refused()
        assert re.fullmatch(r"[^\n]{40,250}\.", str(caught.value))
        assert f"tiny {name}" in str(caught.value)
    assert not changed(before, snapshot(lm))


@every_method
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_nothing_to_write_is_an_empty_edit(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    edit = case.how.solve(case.lm, [])
    assert (edit.deltas, edit.facts, edit.carry, edit.nbytes) == ({}, (), {}, 0)
    assert Edit.from_bytes(edit.to_bytes()).id == edit.id
    case.lm.weights.stand([edit.deltas])


@every_method
@on_llama
def test_bad_facts_are_our_errors(solved: Solved, method: str, name: str) -> None:
    case = solved(method, name)
    for wrong in (
        {"subject": "Italy"},
        {"target": ""},
        {"target": "  "},
        {"subject": " "},
        {"subject": "Fran"},
        {"prompt": ""},
    ):
        with pytest.raises(BadFact):
            replace(FACTS[0], **wrong)
    with pytest.raises(BadFact, match="contradict"):
        case.how.solve(case.lm, [FACTS[0], replace(FACTS[0], target="Berlin")])
    nameless = replace(FACTS[0], subject="")
    if case.how.located:
        with pytest.raises(BadFact, match=f"{method} looks a fact up at its subject, and .* names none"):
            case.how.solve(case.lm, [nameless])
    if not case.how.batched:
        with pytest.raises(BadConfig, match=f"{method} writes one fact at a time"):
            case.how.solve(case.lm, FACTS[:2])


# A layer there is not, or that a method cannot reach: T5's third is the decoder's first, where no subject stands.
FOREIGN = [("gpt2", 3), ("gpt2", -1), ("t5", 99), ("t5", -1), ("t5", 3)]
LAYERS = {"layer": lambda layer: layer, "layers": lambda layer: (1, layer)}


@pytest.mark.parametrize(
    ("method", "key", "name", "layer"),
    [
        (method, key, name, layer)
        for method in methods.names()
        for key in settings_of(method)
        if key in LAYERS
        for name, layer in FOREIGN
        if (name, layer) != ("t5", 3) or issubclass(methods.get(method), LocateThenEdit)
    ],
)
def test_unknown_layers_are_our_errors(solved: Solved, method: str, key: str, name: str, layer: int) -> None:
    lm = solved(method, name).lm
    before = snapshot(lm)
    how = small(method, **{key: LAYERS[key](layer)})
    for call in (lambda: how.solve(lm, FACTS[:1]), lambda: how.prepare(lm)):
        with pytest.raises(UnknownSite, match=r"layers 0 to [24]"):
            call()
    assert not changed(before, snapshot(lm))


def test_every_method_is_asked_for_an_unknown_layer() -> None:
    writing = [method for method in methods.names() if not methods.get(method).in_context]
    assert all(LAYERS.keys() & settings_of(method).keys() for method in writing)


NONSENSE = {
    "layers": [(), (1, 1)],
    "steps": [0, -3],
    "lr": [0.0, -1.0],
    "clamp": [0.0, -1.0],
    "weight": [0.0, -1.0],
    "tokens": [-1],
    "kl": [-1.0],
    "decay": [-1.0],
    "bound": [0.0, -1.0],
}


@pytest.mark.parametrize(
    ("method", "key", "value"),
    [(m, k, value) for m in methods.names() for k in settings_of(m) for value in NONSENSE.get(k, ())],
)
def test_settings_that_make_no_sense_are_our_errors(method: str, key: str, value: object) -> None:
    with pytest.raises(BadConfig, match=key) as caught:
        methods.make(method, {key: value})
    assert "\n" not in str(caught.value)


def test_every_kind_of_nonsense_is_some_methods_setting() -> None:
    assert set(NONSENSE) <= {key for method in methods.names() for key in settings_of(method)}


# ------------------------------------------------------------------ 8: where it comes from


def test_every_file_of_the_folder_is_a_method() -> None:
    files = {p.stem for p in Path(methods.__path__[0]).glob("*.py") if p.stem not in ("__init__", "base")}
    assert {methods.get(name).__module__.removeprefix("errata.methods.") for name in methods.names()} == files


@every_method
def test_the_docstring_says_where_it_comes_from_and_how_it_differs(method: str) -> None:
    kind = methods.get(method)
    text = sys.modules[kind.__module__].__doc__ or ""
    title, _, rest = text.partition("\n\n")
    assert re.fullmatch(r"[A-Z][^\n]{10,110}\.", title), "a title line"
    assert re.search(r"^Papers?: .*https://arxiv\.org/abs/\d{4}\.\d{4,5}", rest, re.MULTILINE | re.DOTALL), (
        "a paper link"
    )
    assert re.search(r"^    .*(=|min|argmin).*$", rest, re.MULTILINE), "its equations"
    assert re.search(r"^Differs from the paper: \S", rest, re.MULTILINE)
    assert "..." not in text, "an unfinished sentence"
    assert kind.__doc__
