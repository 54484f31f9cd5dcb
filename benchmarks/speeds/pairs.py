"""What a method of errata is called by EasyEdit, and the settings file, model name and covariances it is given there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from errata import methods
from errata.config import parse_flags
from errata.data.case import Case
from errata.delta import Site
from errata.model.lm import LM
from errata.model.where import PRIMER
from errata.solve.keys import gather, queries
from errata.solve.values import step_size
from errata.stats.store import second_moments
from speeds.measure import Row

STOP = 0.05  # the loss at which the library ends, written into its code
# What a model's directory must be called there, by model_type: the library tells architectures by their path.
CALLED = {
    "llama": "llama",
    "gpt2": "gpt2-xl",
    "gptj": "gpt-j",
    "mistral": "mistral",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
}
# Settings that some of its versions do not know and that say what those do anyway.
OPTIONAL = (
    *("model_parallel", "fp16", "batch_size"),
    *("enable_prompt_keys", "enable_random_prefix_keys", "original_implementation"),
)


class Refused(Exception):
    """Why nothing can be compared, in a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A method here and there.

    Args:
        name: what it and its class of settings are called there. settings: their names there, by those here.
        fixed: what it wants to be told besides. role: where v* is learned.
        cache: module and attribute in which covariances are kept there, and whether inverted.
        statistics: those used unless asked for others. bare: whether it can do without.
    """

    name: str
    settings: Mapping[str, str]
    fixed: Mapping[str, Any]
    role: str
    cache: tuple[str, str, bool]
    statistics: str
    bare: bool = False


_VALUE = {
    "steps": "v_num_grad_steps", "lr": "v_lr", "decay": "v_weight_decay", "clamp": "clamp_norm_factor", "kl": "kl_factor",
}  # fmt: skip
PAIRS: Mapping[str, Pair] = {
    "rome": Pair(
        name="ROME", settings={**_VALUE, "consistent_keys": "enable_random_prefix_keys"}, role="down",
        fixed={"context_template_length_params": [[10, 5]], "enable_prompt_keys": False},
        cache=("easyeditor.models.rome.compute_u", "inv_mom2_cache", True), statistics="none", bare=True,
    ),
    "memit": Pair(
        name="MEMIT", settings={**_VALUE, "weight": "mom2_update_weight"}, role="block",
        fixed={"layer_selection": "all"},  # its contexts are five of ten tokens whatever it is told
        cache=("easyeditor.models.memit.memit_main", "COV_CACHE", False), statistics="ours",
    ),
}  # fmt: skip


def directory(model: str) -> Path:
    """Return where a model lies; both sides read it there."""
    path = PRIMER if model == "primer" else Path(model).expanduser()
    if not path.is_dir():
        raise Refused(f"{model!r} is no directory; both sides read the model from one.")
    return path


def templates(lm: LM) -> Row:
    """Return the library's names of a model's modules, from errata's table of architectures."""
    stack, names = lm.row.stacks[0], {module: name for name, module in lm.model.named_modules()}
    top = stack.blocks.rpartition(".")[0]
    norms = [name for name, _ in lm.model.get_submodule(top).named_children() if "norm" in name or name == "ln_f"]
    parts = {"mlp": stack.down.rpartition(".")[0], "attn": stack.attention.rpartition(".")[0]}
    if not all(parts.values()) or not norms:
        raise Refused(
            f"{lm.name} has no module for its whole MLP, attention or last norm; the library names these three."
        )
    block = f"{stack.blocks}.{{}}"
    return {
        "rewrite_module_tmp": f"{block}.{stack.down}", "layer_module_tmp": block,
        **{f"{name}_module_tmp": f"{block}.{path}" for name, path in parts.items()},
        "ln_f_module": f"{top}.{norms[-1]}", "lm_head_module": names[lm.head()],
    }  # fmt: skip


def resolved(lm: LM, pair: Pair, cases: Sequence[Case], options: argparse.Namespace) -> Any:
    """Return errata's method with every setting a number, so that it can be told to both."""
    given = parse_flags(methods.get(options.method), options.set)
    if options.statistics == "none":
        given["damping"] = 1e6
    both = {"shrink": 0.0, "follows": False, "names": 0.0, "margin": None}  # what the other has no setting for is off
    how: Any = methods.make(options.method, {**both, **given, "stop": STOP}).resolve(lm)
    if how.lr == "auto":  # a step for each fact; there it is one for all
        site = Site(how.sites()[-1].layer, pair.role)
        asked = queries(lm, [case.fact for case in cases if case.fact], [""], answers=False)
        steps = step_size(gather(lm, asked, outputs=[site])[1][site].float(), how.goal())
        how = replace(how, lr=float(f"{float(steps.mean()):.3g}"))
    return how


def hparams(lm: LM, how: Any, pair: Pair, name: str, options: argparse.Namespace) -> Row:
    """Return the library's settings."""
    settings = {there: getattr(how, here) for here, there in pair.settings.items()}
    device = int(options.device.partition(":")[2] or 0) if options.device.startswith("cuda") else options.device
    return {
        "alg_name": pair.name, "model_name": name, "stats_dir": str(Path(options.stats_dir).resolve()), "device": device,
        "layers": [site.layer for site in how.sites()], "fact_token": "subject_last", "v_loss_layer": lm.depth - 1,
        "mom2_adjustment": options.statistics != "none", "mom2_dataset": "wikipedia",
        "mom2_n_samples": options.samples, "mom2_dtype": "float32", "model_parallel": False, "fp16": False,
        "batch_size": 1, "original_implementation": not settings.get("enable_random_prefix_keys", True),
        **settings, **pair.fixed, **templates(lm),
    }  # fmt: skip


def task(lm: LM, how: Any, options: argparse.Namespace, work: Path) -> Path:
    """Write what the other process needs and return its file: settings, a link to the model, covariances."""
    pair, kind = PAIRS[options.method], lm.model.config.model_type
    if kind not in CALLED:
        raise Refused(f"EasyEdit has no name for models of type {kind}; use one of {', '.join(CALLED)}.")
    name = (
        f"{CALLED[kind]}-{lm.fingerprint[:12]}"  # its statistics are kept under this name: one for each set of weights
    )
    (work / name).symlink_to(directory(options.model).resolve(), target_is_directory=True)
    settings = hparams(lm, how, pair, name, options)
    (work / "hparams.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items()))
    found: Row = {"easyedit": str(Path(options.easyedit).resolve()), "name": pair.name, "cache": pair.cache}
    found |= {"hparams": str(work / "hparams.yaml"), "threads": options.threads, "optional": OPTIONAL, "statistics": ""}
    if options.statistics == "ours":
        found["statistics"] = str(work / "covariances.safetensors")
        save_file(damped(lm, how, settings["rewrite_module_tmp"]), found["statistics"])
    (work / "task.json").write_text(json.dumps(found))
    return work / "task.json"


def damped(lm: LM, how: Any, template: str) -> dict[str, torch.Tensor]:
    """Return the covariances errata writes under, by the library's names of the matrices."""
    found = second_moments(lm, how.sites(), how.corpus, how.tokens)
    eye = torch.eye(lm.inner, dtype=torch.float64)
    both = {site: second.double().cpu() for site, second in found.items()}
    return {template.format(s.layer): c + how.damping * c.diagonal().mean() * eye for s, c in both.items()}
