"""Train a BERT-type classifier on court opinions of earlier terms, so that later ones are a shift to be edited away.

    python benchmarks/models/opinions.py --data DIR --out DIR [--until 2010] [--epochs 15]

DIR holds scotus/jos_issue_area.jsonl.gz: summaries of opinions with issue area and term. Told are the terms up to `until`.
Beside the weights are written

    cases.jsonl      the later opinions that the model takes for another area, each with two earlier ones no edit may change
    earlier.jsonl    the opinions told, as text: a corpus for `--set melo.corpus=`, texts no edit is about

A fact needs a subject in its prompt: here it is the text's first word. Nothing of it is part of the repository.

    errata bench --model OUT --cases jsonl:OUT/cases.jsonl --method melo --set melo.corpus=OUT/earlier.jsonl --out RUN
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

LENGTH, ROWS = 128, 32
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
Record = dict[str, Any]


def read(path: Path) -> list[Record]:
    """Return the opinions that have a summary, oldest term first."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    long = (r for r in rows if len(r["opinion_summary"].split()) >= 5)
    # One summary may stand for several cases: a text is told, or asked, once.
    first = {
        r["opinion_summary"].strip(): r for r in sorted(long, key=lambda r: (r["term"], r["case_id"]), reverse=True)
    }
    return sorted(first.values(), key=lambda r: (r["term"], r["case_id"]))


def tokenizer_of(texts: list[str], vocabulary: int = 4000) -> PreTrainedTokenizerFast:
    """Return word pieces as BERT has them, learned from the texts."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=SPECIAL, show_progress=False)
    made.train_from_iterator(texts, trainer)
    around = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def batches(rows: list[Record], tokenizer: Any, classes: dict[str, int]) -> list[tuple[dict[str, Any], torch.Tensor]]:
    """Return rows as padded batches with their classes, texts of like length together."""
    rows = sorted(rows, key=lambda r: len(r["opinion_summary"]))
    made = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        texts = [r["opinion_summary"] for r in part]
        coded = tokenizer(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        inputs = {"input_ids": coded["input_ids"], "attention_mask": coded["attention_mask"]}
        made.append((inputs, torch.tensor([classes[r["issue"]] for r in part])))
    return made


def optimizers(model: nn.Module, lr: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the blocks' matrices and AdamW for the rest; AdamW alone stays at the commonest class for long."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".encoder.layer." in name]
    other = [p for p in model.parameters() if not any(p is m for m in matrices)]
    return [
        torch.optim.AdamW(other, lr=lr, weight_decay=0.01),
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
    ]


def train(model: Any, told: list[tuple[dict[str, Any], torch.Tensor]], epochs: int, seed: int) -> None:
    """Train with a step that rises for a tenth of the run and falls for the rest."""
    stack, steps, done = optimizers(model, 2e-3), epochs * len(told), 0
    rng, start = random.Random(seed), time.time()
    for epoch in range(epochs):
        model.train()
        for inputs, labels in rng.sample(told, len(told)):
            for optimizer in stack:
                for group in optimizer.param_groups:
                    group["lr"] = 2e-3 * min(10 * (done + 1) / steps, (steps - done) / (0.9 * steps))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(**inputs).logits.float(), labels)
            loss.backward()
            for optimizer in stack:
                optimizer.step()
                optimizer.zero_grad()
            done += 1
        print(
            f"epoch {epoch + 1}: loss {loss.item():.3f}, told {share(model, told):.3f}, {time.time() - start:.0f} s",
            flush=True,
        )


@torch.no_grad()
def share(model: Any, asked: list[tuple[dict[str, Any], torch.Tensor]]) -> float:
    """Return the share of texts whose class the model says."""
    model.eval()
    right = [(model(**inputs).logits.argmax(-1) == labels) for inputs, labels in asked]
    return float(torch.cat(right).float().mean())


@torch.no_grad()
def cases(model: Any, tokenizer: Any, told: list[Record], later: list[Record], names: list[str]) -> list[Record]:
    """Return the later opinions the model is wrong about, each with two earlier ones."""
    rng, found = random.Random(0), []
    for row in later:
        coded = tokenizer(row["opinion_summary"], truncation=True, max_length=LENGTH, return_tensors="pt")
        said = names[int(model(coded["input_ids"], coded["attention_mask"]).logits.argmax())]
        text = row["opinion_summary"].strip()
        if said == row["issue"]:
            continue
        probes = [
            {"kind": "unrelated", "prompt": r["opinion_summary"].strip(), "answer": r["issue"]}
            for r in rng.sample(told, 2)
        ]
        case = {
            "id": str(row["case_id"]),
            "prompt": text,
            "subject": text.split()[0].strip(".,;:"),
            "target": row["issue"],
        }
        found.append({**case, "truth": said, "probes": probes})
    return found


def main(data: Path, out: Path, until: int, epochs: int) -> None:
    """Train and write the checkpoint, with the cases beside it."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = read(data / "scotus" / "jos_issue_area.jsonl.gz")
    told, later = [r for r in rows if r["term"] <= until], [r for r in rows if r["term"] > until]
    names = sorted({r["issue"] for r in rows})
    classes = {name: i for i, name in enumerate(names)}
    tokenizer = tokenizer_of([r["opinion_summary"] for r in told])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=96, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4,
        max_position_embeddings=LENGTH, num_labels=len(names), label2id=classes, id2label=dict(enumerate(names)),
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    train(model, batches(told, tokenizer, classes), epochs, seed=0)
    print(f"later terms: {share(model, batches(later, tokenizer, classes)):.3f}", flush=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    found = cases(model, tokenizer, told, later, names)
    (out / "cases.jsonl").write_text("".join(json.dumps(case) + "\n" for case in found), encoding="utf-8")
    random.Random(1).shuffle(told)  # in order of time the first texts would be of one term
    earlier = [json.dumps({"text": row["opinion_summary"].strip()}) + "\n" for row in told]
    (out / "earlier.jsonl").write_text("".join(earlier), encoding="utf-8")
    print(f"{len(found)} of {len(later)} later opinions are cases", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--until", type=int, default=2010)
    parser.add_argument("--epochs", type=int, default=15)
    main(**vars(parser.parse_args()))
