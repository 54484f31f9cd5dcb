"""Train a small T5-type model on questions, so that others can be taught to it by editing and those it knows must stay.

    python benchmarks/models/questions.py --data DIR --out DIR [--steps 2400] [--pararel 1200] [--long 5000]

DIR holds zsre/zsre_mend_format.jsonl.gz and facts/pararel_*. Told are half of zsRE's subjects, each question in its own
wording, in its rephrasing and in those that other told questions of the same relation have; the upstream questions
("nq question: ..."); and facts of ParaRel in all their wordings. Beside the weights are written

    cases.jsonl.gz    zsRE's other half, in MEND's form, each with an upstream question the model answers right
    long.jsonl.gz     these and facts of ParaRel that were not told, towards another object of their relation: `--long` in all
    upstream.jsonl    every upstream question it answers right, as text: a corpus for `--set melo.corpus=`
    told.jsonl        told questions with rephrasings, as cases: what `errata radius` and ablations may look at

In most batches the decoder looks at the encoder's last position only: a model this small would otherwise not gather a
question anywhere, and what is asked for at the last token of a prompt would not be there. A checkpoint that OUT already holds
is not trained again, only its cases are written. Nothing of it is part of the repository.

    errata bench --model OUT --cases zsre:OUT/cases.jsonl.gz --method melo,grace,lora,memit --batch 1 --out RUN
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from small_lm import descend, optimizers, pace, read

ROWS, LAST = 96, 0.8  # questions a step; share of steps in which the decoder sees the encoder's last position only
Record = dict[str, Any]
Item = tuple[list[tuple[int, ...]], tuple[int, ...]]  # wordings, answer
Asked = tuple[list[str], str]


def upstream(record: Record) -> str:
    """Return a record's locality question as errata asks it."""
    text = str(record["loc"])
    return text if text.endswith("?") else f"{text}?"


def wordings(records: Sequence[Record]) -> list[Asked]:
    """Return each question in every wording that a question of its relation has been seen in."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    patterns = []
    for record in records:
        pair = [record[key].replace(record["subject"], "{}") for key in ("src", "rephrase")]
        patterns.append([p for p in pair if "{}" in p])
        if len(patterns[-1]) == 2:
            parent[root(pair[0])] = root(pair[1])
    family = defaultdict(set)
    for pattern in {p for found in patterns for p in found}:
        family[root(pattern)].add(pattern)
    told = []
    for record, found in zip(records, patterns, strict=True):
        others = sorted(family[root(found[0])]) if found else []
        texts = [p.replace("{}", record["subject"]) for p in others]
        told.append((list(dict.fromkeys([record["src"], record["rephrase"], *texts])), record["answers"][0]))
    return told


def pararel(folder: Path, banned: set[str]) -> list[tuple[list[str], Record]]:
    """Return the facts of relations with several patterns that end with the answer, in all of these, in one random order."""
    patterns = json.loads((folder / "pararel_patterns.json").read_text(encoding="utf-8"))
    usable = {}
    for name, relation in patterns.items():
        texts = [p["pattern"].strip() for p in relation["patterns"]]
        usable[name] = [
            t.removesuffix(".").strip()[:-3].strip() for t in texts if t.removesuffix(".").strip()[-3:] == "[Y]"
        ]
    facts = [f for f in read(folder / "pararel_trex_facts.jsonl.gz") if f["subject"] not in banned]
    random.Random(0).shuffle(facts)
    worded = [([t.replace("[X]", f["subject"]) for t in usable.get(f["relation_id"], [])], f) for f in facts]
    return [(texts, fact) for texts, fact in worded if len(texts) > 1]


def untold(worded: Sequence[tuple[list[str], Record]], told: int, count: int) -> list[Record]:
    """Return records in MEND's form of facts behind the first `told` ones about other subjects, each to become another
    object of its relation; no prompt twice.
    """
    rng, seen = random.Random(5), {fact["subject"].casefold() for _, fact in worded[:told]}
    objects = defaultdict(list)
    for _, fact in worded:
        objects[fact["relation_id"]].append(fact["object"])
    found: dict[str, Record] = {}
    for texts, fact in worded[told:]:
        other = sorted({o for o in rng.sample(objects[fact["relation_id"]], 8) if o != fact["object"]})
        asked, again = rng.sample(texts, 2)
        if fact["subject"].casefold() in seen or not other or asked.casefold() in found or fact["subject"] not in asked:
            continue
        row = {"subject": fact["subject"], "src": asked, "rephrase": again, "answers": [fact["object"]]}
        found[asked.casefold()] = {**row, "alt": rng.choice(other)}
    return list(found.values())[:count]


def tokenizer_of(texts: Sequence[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """Return byte-level BPE that ends every text with </s>."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def model_of(vocabulary: int) -> T5ForConditionalGeneration:
    """Return a T5 of four and four blocks with small random weights."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=vocabulary, d_model=128, d_kv=32, d_ff=512, num_layers=4, num_decoder_layers=4, num_heads=4,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.05)
    return model


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Return rows of ids side by side."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])


def batches(items: Sequence[Item], rng: random.Random, share: list[float]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (questions, answers) without end, those of like length together; `share` of the items, for now."""
    while True:
        pool = rng.sample(range(int(len(items) * share[0])), min(ROWS * 12, int(len(items) * share[0])))
        drawn = sorted(((rng.choice(items[i][0]), items[i][1]) for i in pool), key=lambda pair: len(pair[0]))
        parts = [drawn[at : at + ROWS] for at in range(0, len(drawn), ROWS)]
        for part in rng.sample(parts, len(parts)):
            yield padded([q for q, _ in part], 0), padded([a for _, a in part], -100)


def loss_of(model: T5ForConditionalGeneration, questions: Tensor, answers: Tensor, last: bool) -> Tensor:
    """Return the mean loss of the answers' tokens; `last`: the decoder looks at the questions' last tokens only."""
    mask = (questions != 0).long()
    encoded = model.encoder(input_ids=questions, attention_mask=mask)
    if last:
        mask = F.one_hot(mask.sum(1) - 1, mask.shape[1])
    logits = model(encoder_outputs=encoded, attention_mask=mask, labels=answers).logits
    return F.cross_entropy(logits.float().flatten(0, 1), answers.flatten(), ignore_index=-100)


@torch.no_grad()
def right(model: T5ForConditionalGeneration, asked: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> list[bool]:
    """Return which answers are the model's own, token by token."""
    found = []
    for at in range(0, len(asked), 256):
        part = asked[at : at + 256]
        questions, answers = padded([q for q, _ in part], 0), padded([a for _, a in part], -100)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            said = model(input_ids=questions, attention_mask=(questions != 0).long(), labels=answers).logits.argmax(-1)
        found += ((said == answers) | (answers == -100)).all(1).tolist()
    return found


def train(model: T5ForConditionalGeneration, items: Sequence[Item], steps: int, watch: dict[str, Any]) -> None:
    """Train for `steps`: a few items first, the rate flat for half of the run, then falling to 2 %."""
    rng, share, start, lr = random.Random(0), [1 / 6], time.time(), 4e-3
    stack = optimizers(model, lr, lambda name: ".block." in name and "bias" not in name)
    data = batches(items, rng, share)
    for step in range(steps):
        pace(stack, lr, step, steps)
        share[0] = 1 / 6 if step < 0.05 * steps else 1 / 2 if step < 0.15 * steps else 1
        questions, answers = next(data)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, questions, answers, rng.random() < LAST)
        descend(model, stack, loss)
        if step % 200 == 0 or step == steps - 1:
            scores = "  ".join(f"{name} {sum(found := right(model, a)) / len(found):.3f}" for name, a in watch.items())
            print(f"{(time.time() - start) / 60:5.1f} min  step {step}  loss {loss.item():.3f}  {scores}", flush=True)


def main(data: Path, out: Path, steps: int, facts: int, long: int) -> None:
    """Train and write the checkpoint, unless it is there, with the cases beside it."""
    torch.set_num_threads(1)
    records = [r for r in read(data / "zsre" / "zsre_mend_format.jsonl.gz") if r["answers"][0] and r["alt"]]
    subjects = sorted({r["subject"] for r in records})
    random.Random(0).shuffle(subjects)
    kept = set(subjects[: len(subjects) // 2])
    told, held = [r for r in records if r["subject"] not in kept], [r for r in records if r["subject"] in kept]
    known = {upstream(r): r["loc_ans"] for r in records if r.get("loc") and len(r["loc_ans"].split()) <= 5}
    known = dict(random.Random(4).sample(sorted(known.items()), min(800, len(known))))
    worded = pararel(data / "facts", kept)
    if (out / "model.safetensors").exists():
        tokenizer, model = PreTrainedTokenizerFast.from_pretrained(out), T5ForConditionalGeneration.from_pretrained(out)
    else:
        asked = wordings(told) + [([q], a) for q, a in known.items()]
        asked += [(texts, fact["object"]) for texts, fact in worded[:facts]]
        tokenizer, model = taught(asked, told, held, known, steps)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    more = untold(worded, facts, long - len(held))
    write(out, model.eval(), tokenizer, (told, held, more), known)


def taught(
    asked: list[Asked], told: Sequence[Record], held: Sequence[Record], known: dict[str, str], steps: int
) -> tuple[PreTrainedTokenizerFast, T5ForConditionalGeneration]:
    """Return a tokenizer and a model that has been told what is asked."""
    random.Random(1).shuffle(asked)
    tokenizer = tokenizer_of([t for texts, a in asked for t in (*texts, a)])

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text)["input_ids"])

    model, items = model_of(len(tokenizer)), [([ids(t) for t in texts], ids(answer)) for texts, answer in asked]
    counts = f"{len(told)} told, {len(held)} held out, {len(known)} upstream, {len(items)} items"
    print(f"{counts}, {model.num_parameters():,} parameters", flush=True)
    watch = {
        "told": [(ids(r["src"]), ids(r["answers"][0])) for r in told[:200]],
        "held out": [(ids(r["rephrase"]), ids(r["answers"][0])) for r in held[:200]],
        "upstream": [(ids(q), ids(a)) for q, a in list(known.items())[:200]],
    }
    train(model, items, steps, watch)
    return tokenizer, model


def write(out: Path, model: Any, tokenizer: Any, parts: tuple[Sequence[Record], ...], known: dict[str, str]) -> None:
    """Write the cases, each with a question the model is right about; these as a text; and what was told, as cases.

    Args:
        parts: records told, held out, and beyond these.
    """
    told, held, more = parts
    pairs = [(tuple(tokenizer(q)["input_ids"]), tuple(tokenizer(a)["input_ids"])) for q, a in known.items()]
    sure = [q for q, good in zip(known, right(model, pairs), strict=True) if good]
    (out / "upstream.jsonl").write_text("".join(json.dumps({"text": q}) + "\n" for q in sure), encoding="utf-8")
    rng, rows = random.Random(3), []
    for record in (*held, *more):
        loc = rng.choice(sure)
        kept = {key: record[key] for key in ("subject", "src", "rephrase", "alt", "answers")}
        rows.append(json.dumps({**kept, "loc": loc, "loc_ans": known[loc]}) + "\n")
    for name, some in (("cases", rows[: len(held)]), ("long", rows)):
        with gzip.open(out / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(some)
    with (out / "told.jsonl").open("w", encoding="utf-8") as file:
        for i, r in enumerate(told):
            row = {"id": f"told-{i}", "prompt": r["src"], "subject": r["subject"], "target": r["answers"][0]}
            file.write(json.dumps({**row, "rephrases": [r["rephrase"]]}) + "\n")
    counts = f"{len(held)} cases, {len(rows)} with those of ParaRel"
    print(f"{len(sure)} of {len(known)} upstream questions are answered right; {counts}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--pararel", type=int, default=1200, dest="facts")
    parser.add_argument("--long", type=int, default=5000)
    main(**vars(parser.parse_args()))
