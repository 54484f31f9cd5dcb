"""errata beside another library: a stand-in with its interface is asked, counted, judged and put back.

pytest tests/test_peers.py
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import tiny

ROOT = Path(__file__).parents[1]
SETTINGS = ("--set", "tokens=300", "--set", "steps=4", "--set", "clamp=2.0")
# What a user's checkout offers, with an edit of its own: a few steps of Adam on one matrix until the target is said.
LIBRARY = """
import copy, json
from dataclasses import dataclass
from pathlib import Path
import torch, yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

@dataclass
class HyperParams:
    alg_name: str
    model_name: str
    device: str
    layers: list
    fact_token: str
    v_num_grad_steps: int
    v_lr: float
    v_weight_decay: float
    clamp_norm_factor: float
    kl_factor: float
    v_loss_layer: int
    mom2_adjustment: bool
    rewrite_module_tmp: str
    layer_module_tmp: str
    mlp_module_tmp: str
    attn_module_tmp: str
    ln_f_module: str
    lm_head_module: str
    stats_dir: str
    mom2_dataset: str
    mom2_n_samples: int
    mom2_dtype: str

    @classmethod
    def from_hparams(cls, path):
        settings = yaml.safe_load(Path(path).read_text())
        Path(__file__).with_name("seen.json").write_text(json.dumps(settings))
        return cls(**settings)

@dataclass
class ROMEHyperParams(HyperParams):
    context_template_length_params: list
    model_parallel: bool = False

@dataclass
class MEMITHyperParams(HyperParams):
    layer_selection: str
    mom2_update_weight: float
    batch_size: int = 1

class BaseEditor:
    @classmethod
    def from_hparams(cls, hparams):
        return cls(hparams)

    def __init__(self, hparams):
        print("a library that prints")
        self.hparams, self.apply_algo = hparams, self.write
        self.model = AutoModelForCausalLM.from_pretrained(hparams.model_name, dtype=torch.float32)
        self.tok = AutoTokenizer.from_pretrained(hparams.model_name)
        self.base = copy.deepcopy(self.model.state_dict())
        for name in (hparams.mlp_module_tmp, hparams.attn_module_tmp, hparams.layer_module_tmp):
            self.model.get_submodule(name.format(hparams.layers[0]))
        assert self.model.get_submodule(hparams.lm_head_module) is self.model.get_output_embeddings()
        self.model.get_submodule(hparams.ln_f_module)

    def write(self, model, tok, requests):
        (request,) = requests
        start = len(tok(request["prompt"])["input_ids"])
        ids = torch.tensor([tok(request["prompt"] + " " + request["target_new"] + ".")["input_ids"]])
        weight = model.get_parameter(self.hparams.rewrite_module_tmp.format(self.hparams.layers[0]) + ".weight")
        model.requires_grad_(False)
        weight.requires_grad_(True)
        adam = torch.optim.Adam([weight], lr=0.05)
        for _ in range(30):
            loss = model(input_ids=ids).logits[0, start - 1 : -1].log_softmax(-1)
            loss = -loss.gather(1, ids[0, start:, None]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        return model, {}

    def edit(self, prompts, target_new, ground_truth=None, sequential_edit=False, verbose=True, **given):
        for name, tensor in self.model.state_dict().items():
            assert torch.equal(tensor, self.base[name]), "the last edit still stands"
        assert sequential_edit and given["subject"][0] in prompts[0]
        self.model(input_ids=torch.tensor([self.tok(prompts[0])["input_ids"]]))  # its evaluation, which does not count
        requests = [{"prompt": prompts[0], "target_new": target_new[0]}]
        edited, copied = self.apply_algo(self.model, self.tok, requests)
        print(f"edited {prompts}")
        return [{}], edited, copied
"""
CACHES = {"rome/compute_u.py": "inv_mom2_cache = {}\n", "memit/memit_main.py": "COV_CACHE = {}\n"}
Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return the benchmark's `main`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location("peers", ROOT / "benchmarks" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "peers", module)
    spec.loader.exec_module(module)
    main: Run = module.main
    return main


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a directory with a library of that interface."""
    package = tmp_path / "checkout" / "easyeditor"
    for name, text in {"__init__.py": LIBRARY, **{f"models/{name}": text for name, text in CACHES.items()}}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package.parent


@pytest.fixture
def given(tmp_path: Path, checkout: Path) -> Sequence[str]:
    """Return the command line for two edits of a tiny model; a third case, whose subject stands twice, is left out."""
    tiny.build("llama").save(tmp_path / "model")
    probes = [{"kind": "neighborhood", "prompt": "The capital of Italy is", "answer": "Rome"}]
    odd = {"id": "odd", "prompt": "In France, the capital of France is", "subject": "France", "target": "Oslo"}
    rows = [odd, *({"id": f.prompt, **f.to_dict(), "truth": "Oslo", "probes": probes} for f in tiny.FACTS[1:])]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    where = ("--easyedit", str(checkout), "--model", str(tmp_path / "model"))
    return (*where, "--cases", f"jsonl:{tmp_path / 'cases.jsonl'}", *SETTINGS)


def test_without_a_checkout_it_is_skipped(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("skipped: ")
    assert said.count("\n") == 1


def test_what_cannot_be_compared_is_a_sentence(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "easyeditor").mkdir()
    assert run(["--easyedit", str(tmp_path)]) == 2
    assert "is no checkout of EasyEdit" in capsys.readouterr().err
    (tmp_path / "easyeditor" / "__init__.py").write_text("")
    assert run(["--easyedit", str(tmp_path), "--method", "memit", "--statistics", "none"]) == 2
    assert run(["--easyedit", str(tmp_path), "--model", "org/model"]) == 2
    said = capsys.readouterr()
    assert not said.out
    assert [line[:5] for line in said.err.splitlines()] == ["memit", "'org/"]


def test_both_sides_are_counted_and_judged(
    run: Run, given: Sequence[str], checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*given, "--json", str(tmp_path / "found.json")]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    told = json.loads((checkout / "easyeditor" / "seen.json").read_text())
    settings, mine, theirs = found["settings"], found["errata"], found["easyedit"]
    assert (found["edits"], found["statistics"], found["timed"]) == (2, "none", "apply_algo")
    assert (told["v_num_grad_steps"], told["clamp_norm_factor"], told["v_lr"]) == (4, 2.0, settings["lr"])
    assert (told["v_weight_decay"], told["kl_factor"]) == (settings["decay"], settings["kl"])
    assert told["mom2_adjustment"] is False
    assert told["rewrite_module_tmp"] == "model.layers.{}.mlp.down_proj"
    tokenizer = tiny.tokenizer("llama")
    lengths = [len(tokenizer(f"{f.prompt} {f.target}.")["input_ids"]) for f in tiny.FACTS[1:]]
    assert (theirs["forwards"], theirs["backwards"], theirs["tokens"]) == (30, 30, 30 * sum(lengths) / 2)
    assert mine["backwards"] == 4
    assert mine["forwards"] > 4  # the first, and those of keys, besides
    assert min(side[name] for side in (mine, theirs) for name in ("seconds", "first_seconds", "gflop", "tokens")) > 0
    assert (found["unedited"]["said"], theirs["said"], theirs["efficacy"]) == (0, 1, 1)
    assert not list(checkout.rglob("__pycache__"))
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("rome on ")
    assert said[2] == "| one edit | errata | easyedit | unedited |"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said[4:]]
    names = ["seconds", "first_seconds", "forwards", "backwards", "tokens", "gflop", "said", "efficacy", "neighborhood"]
    assert [row[0] for row in rows] == names
    assert [row[3] for row in rows[:6]] == ["–"] * 6
    assert rows[3][1:] == ["4", "30", "–"]


def test_covariances_are_handed_over_and_what_fails_there_is_said_here(
    run: Run, given: Sequence[str], checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    look = "from easyeditor.models.memit.memit_main import COV_CACHE\n"
    look += (
        "        raise ValueError({key[1]: (*c.shape, bool((c.diagonal() > 0).all())) for key, c in COV_CACHE.items()})"
    )
    library = checkout / "easyeditor" / "__init__.py"
    library.write_text(LIBRARY.replace("(request,) = requests", look))
    assert run([*given, "--method", "memit", "--set", "layers=1"]) == 2
    said = "EasyEdit did not get through (ValueError: {'model.layers.1.mlp.down_proj': (40, 40, True)}).\n"
    assert capsys.readouterr().err == said


def test_a_python_that_is_not_there_is_a_sentence(
    run: Run, given: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*given, "--python", "/no/such/python"]) == 2
    assert "--python /no/such/python does not start" in capsys.readouterr().err
