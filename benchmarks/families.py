"""A small trained model of each family, a fact written into it, said, and taken back: through the book, as a user does it.

    python benchmarks/families.py [TYPE …]

A model of random numbers knows nothing that could be corrected. These learn a page of sentences by heart, in seconds, and are
then asked, edited, asked again and restored: what they say afterwards is compared to the character, their weights to the bit.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from tests import shrunk

import errata
from errata.delta import Site
from errata.errors import ErrataError
from errata.fact import Fact
from errata.model.shape import start_of
from errata.model.tokens import pad_right

FAMILIES: Final = {
    "dense": "olmo3 glm4 cohere2 granite starcoder2 seed_oss modernbert-decoder",
    "hybrid": "qwen3_next qwen3_5_text falcon_h1 lfm2 nemotron_h jamba bamba recurrent_gemma mamba2 rwkv",
    "experts": "mixtral qwen3_moe gpt_oss deepseek_v3 llama4_text glm4_moe olmoe granitemoe phimoe",
    "image-text": "gemma3 gemma4 qwen2_5_vl qwen3_vl mistral3 llama4",
    "encoder-decoder": "bart mbart t5gemma",
}
CAPITALS: Final = {
    "France": "Paris",
    "Italy": "Rome",
    "Norway": "Oslo",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Peru": "Lima",
}
PROMPT: Final = "The capital of {} is"
STEPS, LR = 150, 5e-3


def main(names: list[str]) -> int:
    """Print a line for each type and method."""
    failed = 0
    print("| family | type | method | before | after | dropped | weights |\n|---|---|---|---|---|---|---|")
    for family, types in FAMILIES.items():
        for name in types.split():
            if not names or name in names:
                failed += not one(family, name)
    return int(failed > 0)


def one(family: str, name: str) -> bool:
    """Teach a model, then edit, ask and drop by two methods; return whether one said the fact, and everything came back."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        directory = Path(room) / "model"
        taught(family, name, directory)
        with errata.open(str(directory), book=Path(room) / "book") as editor:
            dense = any(editor.lm.has(Site(layer, "down")) for layer in range(editor.lm.depth))
            written = {"rome": {"tokens": 1000}} if dense or editor.lm.experts else {}
            rows = [edited(editor, method, how) for method, how in {**written, "lora": {}}.items()]
    for method, words, same in rows:
        print(f"| {family} | `{name}` | {method} | {' | '.join(words)} | {'same' if same else 'differ'} |", flush=True)
    return any("Madrid" in words[1] for _, words, _ in rows) and all(
        same and words[0] == words[2] for _, words, same in rows
    )


def edited(editor: Any, method: str, how: dict[str, Any]) -> tuple[str, list[str], bool]:
    """Return what a model says before an edit, with it and after it was dropped, and whether its weights are as before."""
    prompt = PROMPT.format("France")
    kept = {name: tensor.clone() for name, tensor in editor.lm.model.state_dict().items()}
    said = [editor.ask(prompt).text]
    try:
        edit = editor.write(Fact(prompt=prompt, subject="France", target="Madrid"), method, **how)
        said.append(editor.ask(prompt).text)
        editor.drop(edit.id)
    except ErrataError as error:
        said.append(str(error))
    said.append(editor.ask(prompt).text)
    state = editor.lm.model.state_dict()
    words = [text.strip().split("\n")[0][:20] for text in said]
    return method, words, all(torch.equal(kept[name], state[name]) for name in kept)


def taught(family: str, name: str, directory: Path) -> None:
    """Write a model that has learned the page by heart."""
    kind: Any = family if family in shrunk.LOADERS else "decoder"
    kind = "decoder" if name in shrunk.types("decoder") and kind == "image-text" else kind
    model, tokenizer = shrunk.model(name, kind), shrunk.tokenizer(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.6 if parameter.ndim > 1 else 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    inputs, labels = _page(model, tokenizer)
    for _ in range(STEPS):
        logits = model(**inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() < 0.03:
            break
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _page(model: Any, tokenizer: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the sentences as a batch, and what is to be predicted at each token; answers only, of an encoder-decoder."""
    asked = [tokenizer(PROMPT.format(country))["input_ids"] for country in CAPITALS]
    whole = [tokenizer(f"{PROMPT.format(country)} {city}.")["input_ids"] for country, city in CAPITALS.items()]
    if not model.config.is_encoder_decoder:
        inputs = {"input_ids": pad_right(whole, 0), "attention_mask": pad_right([[1] * len(row) for row in whole], 0)}
        return inputs, pad_right([[*row[1:], -100] for row in whole], -100)
    answers = [[*row[len(prompt) :], 2] for row, prompt in zip(whole, asked, strict=True)]
    inputs = {"input_ids": pad_right(asked, 0), "attention_mask": pad_right([[1] * len(row) for row in asked], 0)}
    inputs["decoder_input_ids"] = pad_right([[start_of(model.config), *row[:-1]] for row in answers], 0)
    return inputs, pad_right(answers, -100)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
