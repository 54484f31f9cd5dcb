"""Edits computed in float32, asked again where they are served: by llama.cpp on the quantised file, and by vLLM.

    python benchmarks/engines.py edit  --out DIR                     # SmolLM2, 30 facts, rome memit ledger kne, in memory
    python benchmarks/engines.py serve --out DIR                     # the same adapters by llama.cpp on its Q4_1 file
    python benchmarks/engines.py serve --out DIR --file OTHER.gguf   # on another quantisation of the model
    python benchmarks/engines.py table --out DIR
    python benchmarks/engines.py vllm  --out DIR --model SMOLLM2 --command VENV/bin/vllm

A row in DIR/rows.jsonl is one edit, alone in the model, in one engine; what is there is not done again. Facts are the first
known ones of each relation in `errata.data.common`, with the answer of another. *Said* is after the fact's own wording,
*paraphrase* a share of the other four, *neighbourhood* the share of up to five others of the relation, all of which the base
knows, that keep their answer; all by greedy text. Needs errata-lm[smollm2,engines].

`vllm` starts a vLLM of an environment of its own on a directory with SmolLM2 (in safetensors) and writes what it saw to
DIR/vllm.jsonl: states pushed, asked, made by the plugin, taken back, and what the engine's prefix cache does with an adapter
whose path and name come to mean another. With --url it asks one that runs, which must have been started with
ERRATA_BOOK=DIR/book and ERRATA_ADAPTERS=DIR/adapters.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tests.export.llama_server import running

import errata
from errata.answers import says
from errata.book import states
from errata.data.common import relations
from errata.editing.editor import Editor
from errata.editing.served import deliver, read_as, recognised
from errata.errors import EngineRefused
from errata.export import http
from errata.export import vllm as engines
from errata.export.gguf import gguf_lora
from errata.fact import Fact
from errata.model.gguf import file_of

METHODS = ("rome", "memit", "ledger", "kne")
METRICS = ("said", "paraphrase", "neighbourhood")
NEIGHBOURS, TOKENS, ROWS, MEMORY = 5, 8, 14, "fp32"
Row = dict[str, Any]
Case = Mapping[str, Any]
Speak = Callable[[Sequence[str]], Sequence[str]]


def cases(speak: Speak) -> Iterator[Row]:
    """Yield facts that a model knows, each with a wrong answer and what to ask besides."""
    for relation in relations():
        rows = relation.rows[:ROWS]
        said = speak([relation.asked(subject)[0] for subject, _ in rows])
        known = [row for row, text in zip(rows, said, strict=True) if says(text, row[1])]
        for at, (subject, answer) in enumerate(known):
            others = [row for row in known[at + 1 :] + known[:at] if row[1] != answer]
            if not others:
                continue
            target = others[len(others) // 2][1]
            near = [row for row in others if row[1] != target][:NEIGHBOURS]
            yield {
                "turn": at, "subject": subject, "prompts": relation.asked(subject), "answer": answer, "target": target,
                "neighbours": [[relation.asked(name)[0], true] for name, true in near],
            }  # fmt: skip


def scored(case: Case, speak: Speak) -> Row:
    """Return what a model, edited or not, says about a case, and its scores."""
    asked = [*case["prompts"], *(prompt for prompt, _ in case["neighbours"])]
    said = [text.strip() for text in speak(asked)]
    own, near = said[: len(case["prompts"])], said[len(case["prompts"]) :]
    hits = [says(text, case["target"]) for text in own]
    kept = [says(text, true) for text, (_, true) in zip(near, case["neighbours"], strict=True)]
    return {
        "said": float(hits[0]), "paraphrase": mean(hits[1:]), "neighbourhood": mean(kept) if kept else None, "texts": said,
    }  # fmt: skip


class Rows:
    """The rows on disk."""

    def __init__(self, out: Path) -> None:
        self.file = out / "rows.jsonl"
        lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        self.rows: list[Row] = [json.loads(line) for line in lines]

    def has(self, engine: str, case: Case, method: str) -> bool:
        wanted = (engine, case["prompts"][0], method)
        return any((row["engine"], row["prompt"], row["method"]) == wanted for row in self.rows)

    def add(self, engine: str, case: Case, method: str, more: Mapping[str, Any]) -> None:
        row = {"engine": engine, "method": method, "prompt": case["prompts"][0], "target": case["target"], **more}
        self.rows.append(row)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(engine, method, row["prompt"], row["target"], *(row[name] for name in METRICS), flush=True)


def listed(out: Path, speak: Speak, count: int) -> list[Row]:
    """Return the cases, chosen once."""
    file = out / "cases.json"
    if not file.exists():
        found = sorted(cases(speak), key=lambda case: case["turn"])[:count]  # of every relation in turn
        file.write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    chosen: list[Row] = json.loads(file.read_text(encoding="utf-8"))
    return chosen


def adapter(out: Path, case: Case, method: str) -> Path:
    return out / "adapters" / f"{method}-{'-'.join(case['prompts'][0].split())}".replace("/", "-")


def edit(out: Path, model: str, methods: Sequence[str], count: int) -> None:
    """Edit in memory, ask there, and write the adapters."""
    rows = Rows(out)
    with tempfile.TemporaryDirectory() as book, errata.open(model, book=book) as editor:

        def speak(prompts: Sequence[str]) -> Sequence[str]:
            return editor.lm.generate(prompts, TOKENS)

        for case in listed(out, speak, count):
            fact = Fact(prompt=case["prompts"][0], subject=case["subject"], target=case["target"])
            opens = read_as(editor, fact).removesuffix(fact.prompt)
            for method in methods:
                if rows.has(MEMORY, case, method):
                    continue
                began = time.process_time()
                try:
                    with editor.rehearse([[fact]], method) as edits:
                        seconds = time.process_time() - began
                        if not adapter(out, case, method).exists():
                            gguf_lora(editor.lm, edits, adapter(out, case, method))
                        rows.add(MEMORY, case, method, {**scored(case, speak), "seconds": seconds, "opens": opens})
                except errata.ErrataError as error:
                    rows.add(MEMORY, case, method, {**dict.fromkeys(METRICS), "refused": str(error)})


def serve(out: Path, file: Path, engine: str) -> None:
    """Ask llama.cpp what was asked in memory, a server for each adapter."""
    rows = Rows(out)
    by_prompt = {case["prompts"][0]: case for case in json.loads((out / "cases.json").read_text(encoding="utf-8"))}
    opens = next(row["opens"] for row in rows.rows if "opens" in row)
    edited = [row for row in rows.rows if row["engine"] == MEMORY and row["method"] != "none" and "refused" not in row]
    bases = [{"prompt": prompt, "method": "none"} for prompt in dict.fromkeys(row["prompt"] for row in edited)]
    for row in [*bases, *edited]:
        case, method = by_prompt[row["prompt"]], row["method"]
        if rows.has(engine, case, method):
            continue
        with running(file, None if method == "none" else adapter(out, case, method) / "adapter.gguf") as server:

            def speak(prompts: Sequence[str], ask: Callable[..., Any] = server.ask) -> Sequence[str]:
                more = {"n_predict": TOKENS, "temperature": 0, "cache_prompt": False}
                return [ask("/completion", {"prompt": opens + text, **more})["content"] for text in prompts]

            rows.add(engine, case, method, scored(case, speak))


def table(out: Path) -> str:
    """Return the Markdown table: means over facts ± half of the 95 % interval, and the difference to memory by fact."""
    rows = Rows(out).rows
    engines, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("engine", "method"))
    lines = [f"| method | engine | n | {' | '.join(METRICS)} |", "|---" * (3 + len(METRICS)) + "|"]
    for method in methods:
        found = {engine: _by_prompt(rows, engine, method) for engine in engines}
        for engine, mine in found.items():
            if not mine:
                continue
            cells = [_cell(mine[prompt][name] for prompt in mine) for name in METRICS]
            lines.append(f"| {method} | {engine} | {len(mine)} | {' | '.join(cells)} |")
            both = [prompt for prompt in mine if prompt in found[MEMORY]]
            if engine != MEMORY and both:
                pairs = [[_less(mine[p][name], found[MEMORY][p][name]) for p in both] for name in METRICS]
                lines.append(f"| | − {MEMORY} | {len(both)} | {' | '.join(_cell(pair, '+') for pair in pairs)} |")
    return "\n".join(lines)


def _by_prompt(rows: Sequence[Row], engine: str, method: str) -> dict[str, Row]:
    mine = [row for row in rows if (row["engine"], row["method"]) == (engine, method) and "refused" not in row]
    return {row["prompt"]: row for row in mine}


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _cell(values: Iterable[float | None], sign: str = "") -> str:
    held = [value for value in values if value is not None]
    if len(held) < 2:
        return ""
    return f"{mean(held):{sign}.3f} ± {1.96 * stdev(held) / math.sqrt(len(held)):.3f}"


# ------------------------------------------------------------------ vLLM

FRANCE, SPAIN = "The capital of France is", "The capital of Spain is"
PORT, START = 8123, 3600.0  # seconds it may take: a CPU build reads gigabytes first
HOW = "--enable-lora --max-lora-rank 8 --max-model-len 256 --max-num-seqs 4 --enforce-eager --dtype float32"
# Longer than a block of the prefix cache, of which only whole ones are kept.
LONG = " ".join(f"There are {n} letters in the archive, and nobody has read them yet." for n in range(20, 32))


@contextmanager
def started(command: str, model: str, out: Path) -> Iterator[str]:
    """Yield the address of a vLLM that serves a model as ``smol`` and has the book's plugin."""
    environment = {
        **os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENGINE_READY_TIMEOUT_S": "3600",
        "ERRATA_BOOK": str(out / "book"), "ERRATA_ADAPTERS": str(out / "adapters"), "ERRATA_NAME": "smol",
        "PYTHONPATH": str(Path(errata.__file__).parents[1]),
    }  # fmt: skip
    words = [command, "serve", model, "--served-model-name", "smol", "--host", "127.0.0.1", "--port", str(PORT)]
    with (out / "server.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen([*words, *HOW.split()], env=environment, stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{PORT}"
    finally:
        process.terminate()
        process.wait()


def awaited(url: str) -> list[str]:
    """Return the models of a server once it answers."""
    until = time.monotonic() + START
    while True:
        try:
            return [one.name for one in engines.served(url)]
        except EngineRefused:
            if time.monotonic() > until:
                raise
        time.sleep(2)


def said_by(url: str, model: str, prompt: str) -> str:
    """Return what a model says, the first time it is asked for perhaps only after its adapter is there."""
    while True:
        try:
            return " ".join(engines.say(url, model, prompt, tokens=5).split())
        except EngineRefused as error:
            if "did not answer within" not in str(error):
                return str(error)


def logprobs(url: str, model: str) -> list[float]:
    """Return the log probabilities of the two tokens that are said after a long text."""
    body = {"model": model, "prompt": f"{LONG} {FRANCE}", "max_tokens": 2, "temperature": 0, "logprobs": 1}
    found: list[float] = json.loads(http.ask(f"{url}/v1/completions", body))["choices"][0]["logprobs"]["token_logprobs"]
    return [round(value, 4) for value in found]


def emptied(source: Path, target: Path) -> None:
    """Write an adapter as if its edits had been dropped: the same matrices, all zero."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    file = target / "adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(file).items()}, file, {"format": "pt"})


def reused(url: str, adapter: Path, out: Path) -> Iterator[tuple[str, Any]]:
    """Yield what an adapter's path and name answer with once they mean another, beside the base and a new path."""

    def call(what: str, **body: Any) -> None:
        http.ask(f"{url}/v1/{what}_lora_adapter", body)

    old, new = out / "reused", out / "unused"
    shutil.copytree(adapter, old, dirs_exist_ok=True)
    yield "log probabilities: base", logprobs(url, "smol")
    call("load", lora_name="other", lora_path=str(old))
    yield "edited", logprobs(url, "other")
    call("unload", lora_name="other")
    emptied(adapter, old)
    call("load", lora_name="other", lora_path=str(old))
    yield "emptied, the same name and path", logprobs(url, "other")
    call("unload", lora_name="other")
    emptied(adapter, new)
    call("load", lora_name="another", lora_path=str(new))
    yield "emptied, a new name and path", logprobs(url, "another")
    call("unload", lora_name="another")


def answers(url: str, editor: Editor, models: Sequence[str]) -> dict[str, list[str]]:
    """Return what models say of France and of Spain, or why they do not."""
    found = {}
    for model in models:
        asked = [read_as(editor, Fact(prompt=prompt, target="Lyon")) for prompt in (FRANCE, SPAIN)]
        found[model] = [said_by(url, model, prompt) for prompt in asked]
    return found


def vllm(url: str, editor: Editor, out: Path) -> Iterator[tuple[str, Any]]:
    """Yield what was done and what was seen."""
    for fact, name in ((Fact(prompt=FRANCE, subject="France", target="Lyon"), "one"),
                       (Fact(prompt=SPAIN, subject="Spain", target="Seville"), "two")):  # fmt: skip
        if name not in states.tags(editor.book):
            editor.write(fact)
            states.tag(editor.book, name)
    yield "models at the start", awaited(url)
    done = deliver(editor, url, at="one", root=out / "adapters")
    yield (
        "errata push --at one",
        {"model": done.pushed.model, "asked": done.asked and done.asked.text, "notes": done.notes},
    )
    yield "answers", answers(url, editor, ("smol", "smol@one"))
    yield (
        "made by the plugin",
        answers(url, editor, ("smol@two", "base@now", f"base@{editor.standing[0].id}", "smol@none")),
    )
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    yield "in chat", {name: engines.say(url, name, chat) for name in ("smol", "smol@one")}
    yield "errata pull", recognised(editor.book, engines.served(url))
    yield "errata unpush smol@one", [one.name for one in engines.unpush(url, "smol@one")]
    yield from reused(url, done.exported.directory, out)
    dropped = editor.drop(editor.standing[-1])
    yield (
        f"errata drop {dropped[0].id}",
        answers(url, editor, ("smol", f"base@@{len(editor.book.history())}", "smol@two")),
    )
    editor.restore(dropped)


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("edit", "serve", "table", "vllm"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--facts", type=int, default=30)
    parser.add_argument("--file", type=Path, help="GGUF file that is served; the one of smollm2 unless given")
    parser.add_argument("--command", default="vllm", help="vLLM's own command")
    parser.add_argument("--url", help="a vLLM that runs")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.part == "vllm":
        out = asked.out.absolute()
        running_at = nullcontext(asked.url) if asked.url else started(asked.command, asked.model, out)
        with (
            running_at as url,
            errata.open(asked.model, book=out / "book") as editor,
            (out / "vllm.jsonl").open("a") as file,
        ):
            for what, seen in vllm(url, editor, out):
                print(what, seen, flush=True)
                file.write(json.dumps({"step": what, "seen": seen}, ensure_ascii=False) + "\n")
        return
    if asked.part == "edit":
        edit(asked.out, asked.model, asked.methods, asked.facts)
    elif asked.part == "serve":
        file = asked.file or file_of("smollm2")
        serve(asked.out, file, file.stem.rpartition(".")[2] or file.stem)
    print(table(asked.out))


if __name__ == "__main__":
    main()
