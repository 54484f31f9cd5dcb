"""Seconds and memory of the methods at the shape of an 8 B model on one accelerator, in one run of a few minutes.

    python benchmarks/accelerator.py --shape llama-3-8b --out found.json [--budget-s 270] [--only rome,kne]
    python benchmarks/accelerator.py --shape tiny --device cpu --dtype float32 --out found.json    # to try it

The model is made on the device from its configuration, with random weights: nothing is fetched. Random weights know no fact,
so **quality is not measured**: losses rarely reach their stop, most descents take all their steps, and seconds are those of
the worst case. The tokenizer is the primer's, and a bias on the head keeps the model from saying ids it does not have, ends
and new lines: what is sampled is text, and every answer is as long as it may be.

Each measurement stands alone: what it raises is its row's last column (the file has the traceback), and the next one begins.
None is begun once --budget-s are spent, and one that runs a minute beyond is broken off; the JSON file is written anew after
each row. At the end all weights are drawn once more and compared with what stands, bit by bit.

peak: most that torch held on the device (on a processor: that the process held beyond its libraries). over: of that, above
the weights. Goal, for rome, memit, kne and melo: peak <= 1.1 x weights + 1.5 GB (GB: 1e9 bytes). host: most that the process
held in main memory, where bases, covariances and their factors are (1.6 GB each at 14,336 inputs). Statistics go to a
temporary directory ($TMPDIR): 8 GB for five layers. Rows called first are cold by intent; before the others something ran.

Where errata is not installed and nothing can be fetched, a folder .whl of wheels may be carried along for what is missing
(torch, transformers >= 5, tokenizers, safetensors, numpy, jaxtyping and filelock are needed, peft for lora):

    export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1; set -o pipefail
    if ls .whl/*.whl >/dev/null 2>&1; then python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \\
        --upgrade --target /tmp/site .whl/*.whl && export PYTHONPATH=$PYTHONPATH:/tmp/site || exit; fi
    [ $(df --output=avail -k /dev/shm | tail -1) -gt 20000000 ] && export TMPDIR=/dev/shm  # seconds without the disk's
    python3 benchmarks/accelerator.py --shape llama-3-8b --budget-s 270 --out $OUT/llama.json 2>&1 | tee $OUT/llama.log
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speeds.passes import counting, timed
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

import errata
from errata import methods
from errata.delta import LowRank, Site
from errata.edit import Edit
from errata.editing.writing import solve
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.loading import in_short
from errata.model.query import Query
from errata.model.where import PRIMER
from errata.primer.probes import edits
from errata.stats.store import ensure

Row = dict[str, Any]
GB = 1e9
TOKENS = 20_000  # read for a covariance
OVERTIME = 60  # seconds after the budget at which what runs is broken off
GOAL = "peak <= 1.1 x weights + 1.5 GB"
_ROPE = {"rope_type": "default", "rope_theta": 500_000.0}
SHAPES: Mapping[str, tuple[Any, Any, Mapping[str, Any]]] = {
    "llama-3-8b": (LlamaConfig, LlamaForCausalLM, {
        "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192, "rope_parameters": _ROPE,
    }),
    "qwen2.5-7b": (Qwen2Config, Qwen2ForCausalLM, {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 32768,
        "rope_parameters": {**_ROPE, "rope_theta": 1_000_000.0},
    }),
    "tiny": (LlamaConfig, LlamaForCausalLM, {
        "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 4096, "max_position_embeddings": 512, "rope_parameters": _ROPE,
    }),
}  # fmt: skip


# ------------------------------------------------------------------ the model


def _barred(tokenizer: Any, vocabulary: int) -> list[int]:
    """Return the ids that are never to be said: those the tokenizer does not have, marks, and what ends a line."""
    known, marks = range(len(tokenizer)), set(tokenizer.all_special_ids)
    lines = [i for i in known if i in marks or "\n" in tokenizer.decode([i])]
    return [*lines, *range(len(tokenizer), vocabulary)]


def _matrices(model: nn.Module) -> Iterator[tuple[nn.Parameter, torch.Generator]]:
    """Yield the drawn parameters, each with a generator of its own, the same every time."""
    for number, parameter in enumerate(model.parameters()):
        if parameter.ndim > 1:
            yield parameter, torch.Generator(parameter.device).manual_seed(number)


@torch.no_grad()
def made(shape: str, device: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a model with random weights, made on the device, and the primer's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(PRIMER)
    config_class, model_class, settings = SHAPES[shape]
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = config_class(**settings, **ends, tie_word_embeddings=False, dtype=dtype)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = model_class(config)
            bias = torch.zeros(config.vocab_size)
    finally:
        torch.set_default_dtype(usual)
    for parameter, generator in _matrices(model):
        parameter.normal_(0, 0.02, generator=generator)
    bias[_barred(tokenizer, config.vocab_size)] = -1e4
    model.lm_head.bias = nn.Parameter(bias)
    return model.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def unchanged(model: nn.Module) -> bool:
    """Say whether every matrix is, to the bit, what was drawn."""
    drawn = ((p, torch.empty_like(p).normal_(0, 0.02, generator=g)) for p, g in _matrices(model))
    return all(torch.equal(parameter, again) for parameter, again in drawn)


# ------------------------------------------------------------------ measuring


def held(name: str) -> int:
    """Return bytes of this process in memory now (VmRSS), or the most since the peak was begun anew (VmHWM); 0: not told."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)


class Late(Exception):
    """A measurement was broken off."""


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    """Raise `Late` inside after so long, as soon as Python runs again."""

    def late(*_: object) -> None:
        raise Late("the budget and a minute are over")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Meter:
    """Measures one thing after the other and keeps the rows.

    Args:
        budget: seconds after which nothing is begun. out: the file. head: what stands in it above the rows.
    """

    device: str
    budget: float
    out: Path
    head: Row
    weights: int = 0
    rows: list[Row] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)
    libraries: int = field(default_factory=partial(held, "VmRSS"))
    clear: Callable[[], object] = bool  # lets nothing stand

    @property
    def left(self) -> float:
        """Seconds until the budget is spent."""
        return self.budget - (time.monotonic() - self.begun)

    @property
    def cuda(self) -> bool:
        """Whether the device counts its own memory."""
        return self.device.startswith("cuda")

    def measure(
        self,
        part: str,
        work: Callable[[], Any],
        *,
        model: Any = None,
        warm: Callable[[], object] | None = None,
        goal: bool = False,
        note: Callable[[Any], str] = lambda _: "",
    ) -> Any:
        """Add a row and return what work returns, or None where it was not done or raised.

        Args:
            model: whose passes are counted. warm: run before, not measured. goal: whether the goal is of it.
        """
        row: Row = {"part": part}
        found = None
        if self.left <= 0:
            row["error"] = "not begun: the budget is spent"
        else:
            try:
                with no_longer_than(self.left + OVERTIME):
                    found = self._measured(row, work, model, warm)
                    row["note"] = note(found)
                self._memory(row, goal)
            except Exception as error:
                row |= {"error": in_short(error), "traceback": traceback.format_exc()[-4000:]}
        if "error" in row:
            self.tidy()
        self.rows.append(row)
        print(line(row), flush=True)
        self.write()
        return found

    def _measured(self, row: Row, work: Callable[[], Any], model: Any, warm: Callable[[], object] | None) -> Any:
        started = time.perf_counter()
        if warm is not None:
            warm()
        self._begin(row)
        row["warming_s"] = round(time.perf_counter() - started, 3)
        if model is None:
            seconds, found = timed(work)
        else:
            with counting(model, flops=False) as count:
                seconds, found = timed(work)
            row |= {"forwards": count.forwards, "backwards": count.backwards, "tokens": count.tokens}
        row["seconds"] = float(f"{seconds:.4g}")
        return found

    def _begin(self, row: Row) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            row["before_gb"] = round(torch.cuda.memory_allocated() / GB, 3)
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
        except OSError:
            self.head["host"] = "peaks in main memory are those since the start"

    def _memory(self, row: Row, goal: bool) -> None:
        """Note the peaks, and whether the goal holds."""
        row["host_gb"] = round(held("VmHWM") / GB, 3)
        peak = torch.cuda.max_memory_allocated() if self.cuda else held("VmHWM") - self.libraries
        row["peak_gb"] = round(peak / GB, 3)
        if self.cuda:
            row["reserved_gb"] = round(torch.cuda.max_memory_reserved() / GB, 3)
        if not self.weights:
            return
        row |= {"over_gb": round((peak - self.weights) / GB, 3), "peak_over_weights": round(peak / self.weights, 3)}
        if goal:
            row["goal_holds"] = peak <= 1.1 * self.weights + 1.5 * GB

    def tidy(self) -> None:
        """Let nothing stand and give back what is not used, as after a measurement that raised."""
        try:
            self.clear()
            gc.collect()
            if self.cuda:
                torch.cuda.empty_cache()
        except Exception as error:  # a card that has failed
            print(f"  afterwards: {in_short(error)}", flush=True)

    def add(self, **row: Any) -> None:
        """Add a row that was not measured but made of others."""
        self.rows.append(row)
        print(line(row), flush=True)

    def write(self) -> None:
        """Write everything found so far."""
        took = round(time.monotonic() - self.begun, 1)
        found = {
            **self.head,
            "weights_gb": round(self.weights / GB, 3),
            "goal": GOAL,
            "took_s": took,
            "rows": self.rows,
        }
        waiting = self.out.with_name(f".{self.out.name}.waiting")
        waiting.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        os.replace(waiting, self.out)


COLUMNS = (
    ("part", 34), ("seconds", 9), ("forwards", 8), ("backwards", 9), ("tokens", 8), ("peak_gb", 8), ("over_gb", 8),
    ("peak_over_weights", 14), ("goal_holds", 5), ("host_gb", 8),
)  # fmt: skip
TITLES = {"peak_over_weights": "peak / weights", "goal_holds": "goal", "forwards": "forward", "backwards": "backward"}


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the table."""
    shown = {True: "holds", False: "NO"}
    cells = []
    for name, width in COLUMNS:
        value = row.get(name, "")
        text = shown[value] if isinstance(value, bool) else str(value)
        cells.append(text.ljust(width) if name == "part" else text.rjust(width))
    return "  ".join([*cells, row["error"] if "error" in row else row.get("note", "")]).rstrip()


# ------------------------------------------------------------------ what is measured


@dataclass
class Bench:
    """The parts, in the order of `PARTS`; each may be left out, and none needs another to have succeeded."""

    lm: LM
    meter: Meter
    room: Path
    facts: Sequence[Fact] = field(default_factory=lambda: edits(40, seed=3))
    opened: Edit | None = None  # melo's

    def site(self) -> Site:
        """Return where rome writes."""
        return methods.make("rome", {}).resolve(self.lm).sites()[0]

    def _solve(self, name: str, facts: Sequence[Fact], **settings: Any) -> Edit:
        return solve(self.lm, methods.make(name, settings), facts, [], None)[0]

    def _edit(self, part: str, name: str, facts: Sequence[Fact], *, warm: bool = False, **settings: Any) -> Any:
        before = partial(self._solve, name, facts, **settings, steps=2) if warm else None
        work, goal = partial(self._solve, name, facts, **settings), name in ("rome", "memit", "kne", "melo")
        return self.meter.measure(part, work, model=self.lm.model, warm=before, goal=goal, note=_outcome)

    def statistics(self) -> None:
        """One layer's covariance."""
        self._read("covariance, 1 layer", [self.site()])

    def _read(self, part: str, sites: Sequence[Site]) -> None:
        work = partial(ensure, self.lm, sites, "primer", TOKENS)
        some = [Query(fact.prompt, fact.target) for fact in self.facts]
        warm = partial(self.lm.logprobs, some, 16)
        self.meter.measure(part, work, model=self.lm.model, warm=warm)
        row = self.meter.rows[-1]
        if "error" not in row:
            row["s_per_10k_tokens"] = round(row["seconds"] / TOKENS * 10_000, 3)
            row["note"] = f"{row['s_per_10k_tokens']} s per 10k tokens, summed and kept on disk"
            print(f"  {row['note']}", flush=True)

    def rome(self) -> None:
        """One fact: with the covariance read but not factored, with both, and (from those) with nothing."""
        read = next((r for r in self.meter.rows if r["part"] == "covariance, 1 layer" and "error" not in r), None)
        self._edit("rome, first: C read, not factored", "rome", self.facts[:1], tokens=TOKENS)
        first = self.meter.rows[-1]
        if read and "error" not in first:
            both = {
                name: read[name] + first[name] for name in ("seconds", "forwards", "backwards", "tokens", "warming_s")
            }
            both |= {name: max(read[name], first[name]) for name in ("peak_gb", "host_gb", "over_gb")}
            self.meter.add(part="rome, nothing known", **both, note="the two above together", derived=True)
        self._edit("rome, next: C known", "rome", self.facts[1:2], tokens=TOKENS)

    def kne(self) -> None:
        """One fact."""
        self._edit("kne", "kne", self.facts[:1], warm=True)

    def melo(self) -> None:
        """One fact."""
        self.opened = self._edit("melo", "melo", self.facts[:1], warm=True)

    def ft(self) -> None:
        """One fact."""
        self._edit("ft", "ft", self.facts[:1], warm=True)

    def lora(self) -> None:
        """One fact, by peft."""
        self._edit("lora", "lora", self.facts[:1], warm=True)

    def memit(self) -> None:
        """Ten facts over its layers, factors not known and known."""
        sites = methods.make("memit", {}).resolve(self.lm).sites()
        self._read(f"covariance, {len(sites)} layers (rest)", sites)
        how = f"memit, 10 facts, {len(sites)} layers"
        self._edit(f"{how}, first", "memit", self.facts[2:12], tokens=TOKENS)
        self._edit(f"{how}, next", "memit", self.facts[12:22], tokens=TOKENS)

    def generate(self) -> None:
        """Sixteen prompts of many lengths, then of one; then with an edit of melo's open beside the weights."""
        prompts = [Query.asked(fact) for fact in self.facts[:16]]
        self._say("generate 16 x 32", prompts)
        self._say("generate 16 x 32, one length", [prompts[0]] * 16)
        if self.opened is not None:
            self.lm.weights.stand([self.opened.deltas])
            self._say("generate 16 x 32, melo stands", prompts)
            self.lm.weights.stand([])

    def _say(self, part: str, prompts: Sequence[Query]) -> None:
        lengths = len({len(self.lm.tokens.opening(prompt)) for prompt in prompts})
        warm, work = partial(self.lm.generate, prompts, 2), partial(self.lm.generate, prompts, 32)
        self.meter.measure(part, work, model=self.lm.model, warm=warm, note=lambda _: f"{lengths} lengths")

    def stand(self) -> None:
        """A hundred rank-one edits of one matrix: let them stand, ask, add one, drop one, drop all."""
        lm, site = self.lm, self.site()
        out, inner = lm.weights[site].shape
        base, rng = lm.weights[site].detach().to("cpu", copy=True), torch.Generator().manual_seed(0)
        ranks = [LowRank(*(torch.randn(n, 1, generator=rng) / n for n in (out, inner))) for _ in range(101)]
        log = [{site: rank} for rank in ranks]

        def at_base(_: object) -> str:
            alone = torch.equal(lm.weights[site].cpu(), base)
            return f"equal to the base to the bit: {alone}, all matrices: {unchanged(lm.model)}"

        def warm() -> None:
            lm.weights.stand(log[:1])
            lm.weights.stand([])

        stand = lm.weights.stand
        self.meter.measure("stand 100 rank-1", lambda: stand(log[:100]), warm=warm)
        self._say("generate 16 x 32, 100 stand", [Query.asked(fact) for fact in self.facts[:16]])
        self.meter.measure("stand 1 more", lambda: stand(log))
        self.meter.measure("drop the first of 101", lambda: stand(log[1:]))
        self.meter.measure("drop all", lambda: stand([]), note=at_base)

    def ask(self) -> None:
        """The front door: a book, a question, a fact written and dropped."""
        editor = self.meter.measure(
            "open a book", partial(errata.open, self.lm, self.room / "book", max_norm_ratio=1e9)
        )
        if editor is None:
            return
        with editor:
            prompt, count = self.facts[0].prompt, {"model": self.lm.model}
            self.meter.measure("ask, 32 tokens", partial(editor.ask, prompt), **count, warm=partial(editor.ask, prompt))
            work = partial(editor.write, self.facts[23], "rome", tokens=TOKENS)
            edit = self.meter.measure("write by rome, C known", work, **count, note=_outcome)
            if edit is not None:
                self.meter.measure("drop", partial(editor.drop, edit.id))


PARTS = ("statistics", "rome", "kne", "melo", "generate", "stand", "ask", "memit", "ft", "lora")


def _outcome(edit: Edit) -> str:
    steps, loss = edit.report.get("steps", []), edit.report.get("loss", [])
    ratios = edit.report.norm_ratio.values()
    size = f", largest change {max(ratios):.2g} of its matrix" if ratios else ""
    return f"steps {max(steps, default=0)}, loss {max(loss, default=0):.3g}{size}"


def machine(device: str) -> Row:
    """Return what the device is and, on a card, what it can do: products, copies, and the way to main memory."""
    found: Row = {"python": platform.python_version(), "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    found |= {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    if device.startswith("cuda"):
        found |= card(device)
        torch.cuda.empty_cache()
    return found


def card(device: str) -> Row:
    """Return a card's name, size and rates on random numbers."""
    square = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    long = torch.randn(2**29, device=device)  # 2 GiB

    def rate(amount: float, work: Callable[[], object], times: int) -> float:
        work()
        return round(amount * times / timed(lambda: all(work() is not None for _ in range(times)))[0], 1)

    return {
        "card": torch.cuda.get_device_name(),
        "card_gb": round(torch.cuda.get_device_properties(0).total_memory / GB, 1),
        "matmul_tflops": rate(2 * 8192**3 / 1e12, partial(torch.mm, square, square), 10),
        "copy_gb_s": rate(2 * 4 * 2**29 / GB, long.clone, 10),
        "to_host_gb_s": rate(2**30 / GB, long[: 2**28].cpu, 2),
    }


def known_by_its_version(room: Path) -> None:
    """Let edits name errata's version where it runs from its sources and is not installed."""
    try:
        importlib.metadata.version("errata-lm")
    except importlib.metadata.PackageNotFoundError:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
        version = next(row.split('"')[1] for row in text.splitlines() if row.startswith("version"))
        info = room / f"errata_lm-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: errata-lm\nVersion: {version}\n")
        sys.path.append(str(room))
        importlib.invalidate_caches()


def run(options: argparse.Namespace, room: Path) -> Meter:
    """Measure everything that is asked for and fits the budget."""
    head = {"shape": options.shape, "dtype": options.dtype, "device": options.device, "budget_s": options.budget_s}
    meter = Meter(options.device, options.budget_s, options.out, {**head, "statistics_in": str(room.parent)})
    try:
        meter.head |= machine(options.device)
    except Exception as error:
        meter.head["machine"] = in_short(error)
    print(json.dumps(meter.head), line({name: TITLES.get(name, name) for name, _ in COLUMNS}), sep="\n", flush=True)
    place = options.shape, options.device, getattr(torch, options.dtype)
    pair = meter.measure("make the model", partial(made, *place), warm=partial(made, "tiny", *place[1:]))
    if pair is None:
        return meter
    model, tokenizer = pair
    meter.weights = sum(p.numel() * p.element_size() for p in model.parameters())
    lm = meter.measure("LM: rows, digest of the weights", partial(LM, model, tokenizer, f"random {options.shape}"))
    if lm is None:
        return meter
    meter.clear = partial(lm.weights.stand, [])
    bench = Bench(lm, meter, room)
    for name in options.only or PARTS:
        try:
            getattr(bench, name)()
        except Exception as error:  # between measurements
            meter.add(part=name, error=in_short(error))
    meter.tidy()
    meter.budget += max(0.0, OVERTIME - meter.left)  # a second's work, whatever is left
    meter.measure("all weights as drawn, in the end", partial(unchanged, model), note=lambda same: str(same))
    return meter


def summary(meter: Meter) -> str:
    """Return the table, and in a line of its own whether the goal holds."""
    told = {row["part"]: row["goal_holds"] for row in meter.rows if "goal_holds" in row}
    missed = [part for part, holds in told.items() if not holds]
    failed = [row["part"] for row in meter.rows if "error" in row]
    verdict = "not measured" if not told else f"missed by {', '.join(missed)}" if missed else "holds"
    lines = [line({name: TITLES.get(name, name) for name, _ in COLUMNS}), *map(line, meter.rows)]
    lines += [f"weights {meter.weights / GB:.3f} GB; goal {GOAL}: {verdict} ({len(told)} rows)"]
    lines += [f"without a figure: {', '.join(failed) or 'nothing'}; {meter.budget - meter.left:.0f} s in all"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; 1 if there is no model to measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-8b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget-s", type=float, default=270)
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"parts, in this order: {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    if unknown := set(options.only or ()) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as name:
        os.environ["ERRATA_CACHE"] = str(Path(name) / "statistics")
        known_by_its_version(Path(name))
        meter = run(options, Path(name))
        print("", summary(meter), sep="\n", flush=True)
        meter.write()
    return 0 if meter.weights else 1


if __name__ == "__main__":
    sys.exit(main())
