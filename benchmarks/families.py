"""A small trained model of each family, a fact written into it, said, and taken back: through the book, as a user does it.

    python benchmarks/families.py [TYPE …]

A model of random numbers knows nothing that could be corrected. These learn who governs where, in three wordings, and to look
it up where large models do: at the last token of the subject, in what the feed-forward part of an early layer gives there. Six
sentences learned by heart are not enough: such a model tells them apart by what stands anywhere, and no change at the subject
moves what it says. So every second text is run with another country's state in its place, and the answer is to be that
country's (Geiger et al., Inducing Causal Structure for Interpretable Neural Networks, https://arxiv.org/abs/2112.00826). What
the models say after an edit is compared to the character, their weights to the bit.
"""

from __future__ import annotations

import random
import string
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from tests import shrunk, tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor

import errata
from errata import methods
from errata.delta import Site
from errata.errors import ErrataError
from errata.fact import Fact
from errata.model.lm import LM
from errata.model.tokens import Batch
from errata.model.trace import Trace, at
from errata.solve.keys import queries

FAMILIES: Final = {
    "dense": "olmo3 glm4 cohere2 granite starcoder2 seed_oss gemma2 olmo2 modernbert-decoder",
    "hybrid": "qwen3_next qwen3_5_text falcon_h1 lfm2 nemotron_h jamba bamba recurrent_gemma mamba2 rwkv",
    "experts": "mixtral qwen3_moe gpt_oss deepseek_v3 llama4_text glm4_moe olmoe granitemoe phimoe",
    "image-text": "gemma3 gemma4 qwen2_5_vl qwen3_vl mistral3 llama4",
    "encoder-decoder": "bart mbart t5gemma",
}
CAPITALS: Final = dict(
    pair.split(":")
    for pair in (
        "France:Paris Italy:Rome Norway:Oslo Spain:Madrid Japan:Tokyo Peru:Lima Egypt:Cairo Kenya:Nairobi Cuba:Havana "
        "Chile:Santiago Poland:Warsaw Greece:Athens"
    ).split()
)
WORDINGS: Final = ("The capital of {} is", "The seat of the government of {} is", "Whoever rules {} lives in")
PROMPT: Final = WORDINGS[0]
STEPS, LEAST, ROWS, LR, GAIN = 900, 200, 16, 5e-3, 0.6
ENOUGH: Final = 0.03  # mean loss of the answers in the last 25 steps
MULTIPLE: Final = {"granite": 0.22, "granitemoe": 0.22}  # as published; a configuration of their class says 1


class Row(NamedTuple):
    """What was seen of one method on one model."""

    method: str
    words: list[str]  # said before, with the edit and after it was dropped
    others: int  # of the other capitals, how many are still said with it
    same: bool  # the weights afterwards, to the bit


def main(names: list[str]) -> int:
    """Print a line for each type and method."""
    failed = 0
    print("| family | type | method | before | after | others | dropped | weights |\n|---|---|---|---|---|---|---|---|")
    for family, types in FAMILIES.items():
        for name in types.split():
            if not names or name in names:
                failed += not one(family, name)
    return int(failed > 0)


def one(family: str, name: str) -> bool:
    """Teach a model, then edit, ask and drop by each method; return whether one said the fact, and everything came back."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        directory = Path(room) / "model"
        taught(family, name, directory)
        with errata.open(str(directory), book=Path(room) / "book") as editor:
            dense = any(editor.lm.has(Site(layer, "down")) for layer in range(editor.lm.depth))
            # Experts this small have keys in few directions: undamped, a change along the others is refused for its size.
            rome = {"tokens": 1000, **({} if dense else {"damping": 0.1})}
            written = {"rome": rome} if dense or editor.lm.experts else {}
            written |= {"memit": {"tokens": 1000}} if dense else {}
            rows = [edited(editor, method, how) for method, how in {**written, "lora": {}}.items()]
    for method, words, others, same in rows:
        print(f"| {family} | `{name}` | {method} | {words[0]} | {words[1]} | {others} of {len(CAPITALS) - 1} | "
              f"{words[2]} | {'same' if same else 'differ'} |", flush=True)  # fmt: skip
    return any("Madrid" in row.words[1] for row in rows) and all(
        row.same and row.words[0] == row.words[2] for row in rows
    )


def edited(editor: Any, method: str, how: dict[str, Any]) -> Row:
    """Return what a model says before an edit, with it and after it was dropped, and whether its weights are as before."""
    prompt, others = PROMPT.format("France"), 0
    kept = {name: tensor.clone() for name, tensor in editor.lm.model.state_dict().items()}
    said = [editor.ask(prompt).text]
    try:
        edit = editor.write(Fact(prompt=prompt, subject="France", target="Madrid"), method, **how)
        said.append(editor.ask(prompt).text)
        places = [country for country in CAPITALS if country != "France"]
        answers = editor.lm.generate([PROMPT.format(country) for country in places], 3)
        others = sum(CAPITALS[place] in answer for place, answer in zip(places, answers, strict=True))
        editor.drop(edit.id)
    except ErrataError as error:
        said.append(str(error))
    said.append(editor.ask(prompt).text)
    state = editor.lm.model.state_dict()
    words = [text.strip().split("\n")[0][:16] for text in said]
    return Row(method, words, others, all(torch.equal(kept[name], state[name]) for name in kept))


def sentences() -> list[str]:
    """Return the page."""
    return [f"{wording.format(country)} {city}." for wording in WORDINGS for country, city in CAPITALS.items()]


def taught(family: str, name: str, directory: Path, seed: int = 0) -> None:
    """Write a model that looks the page up at the subject."""
    kind: Any = family if family in shrunk.LOADERS else "decoder"
    kind = "decoder" if name in shrunk.types("decoder") and kind == "image-text" else kind
    model, tokenizer = shrunk.model(name, kind, seed), spelled(name)
    for module in model.modules():
        if name in MULTIPLE and hasattr(module, "residual_multiplier"):
            module.residual_multiplier = MULTIPLE[name]
    if name in MULTIPLE:
        model.config.residual_multiplier = MULTIPLE[name]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(GAIN if parameter.ndim > 1 else 1.0)
    lm = LM(model, tokenizer, name)
    site, drawn, last = _place(lm), random.Random(seed), list[float]()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * min(1, (step + 1) / 20) * (1 - 0.9 * step / STEPS)
        whole, answers = _losses(lm, site, drawn)
        optimizer.zero_grad()
        (whole + answers).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        last = [*last[-24:], float(answers.detach())]
        if step >= LEAST and sum(last) / len(last) < ENOUGH:
            break
    print(f"{name}: {step + 1} steps, loss of answers {sum(last) / len(last):.3f}", file=sys.stderr, flush=True)
    model.eval().save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def spelled(name: str) -> Any:
    """Return a tokenizer to which the words of the page are a token each, with the marks that models of a type expect."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder, made.post_processor = decoders.ByteLevel(), processors.ByteLevel(trim_offsets=True)
    how = {"special_tokens": ["<pad>", "<s>", "</s>"], "initial_alphabet": list(string.ascii_letters + ".,?'Ġ")}
    made.train_from_iterator(sentences(), trainers.BpeTrainer(vocab_size=tiny.VOCABULARY, show_progress=False, **how))
    return tiny.wrap(made, *tiny.AROUND.get(name, ("", "")))


def _place(lm: LM) -> Site:
    """Return what rome would write to, or the output of an early block where it could not."""
    try:
        return methods.make("rome", {}).resolve(lm).sites()[0]
    except ErrataError:
        return Site(1, "block")


def _losses(lm: LM, site: Site, drawn: random.Random) -> tuple[Tensor, Tensor]:
    """Return the loss of some texts and that of their answers, as they are and with states at the subject exchanged."""
    countries = [drawn.choice(list(CAPITALS)) for _ in range(ROWS)]
    giver = [row if row % 2 else drawn.randrange(ROWS) for row in range(ROWS)]
    prompts = [_after_others(country, drawn) for country in countries]
    kept: list[Tensor] = []

    def keep(hidden: Tensor) -> Tensor:
        kept.append(hidden)
        return hidden

    own = _asked(lm, prompts, countries, countries)
    with Trace(lm, replace={site: keep}):
        losses = [_loss(lm, own)]
    given = at(kept[0], own.lookup)[giver]

    def exchange(hidden: Tensor) -> Tensor:
        return hidden.index_put((torch.arange(ROWS), own.lookup), given)

    with Trace(lm, replace={site: exchange}):
        losses.append(_loss(lm, _asked(lm, prompts, countries, [countries[row] for row in giver])))
    return sum(whole for whole, _ in losses) / 2, sum(answers for _, answers in losses) / 2


def _after_others(country: str, drawn: random.Random) -> str:
    """Return a question about a country, after sentences about up to two others."""
    others = drawn.sample([other for other in CAPITALS if other != country], drawn.choice((0, 0, 1, 2)))
    before = [f"{drawn.choice(WORDINGS).format(other)} {CAPITALS[other]}." for other in others]
    return " ".join([*before, drawn.choice(WORDINGS).format(country)])


def _asked(lm: LM, prompts: list[str], countries: list[str], answers: list[str]) -> Batch:
    facts = [
        Fact(prompt=prompt, subject=country, target=f"{CAPITALS[answer]}.")
        for prompt, country, answer in zip(prompts, countries, answers, strict=True)
    ]
    return lm.tokens.batch(queries(lm, facts, [""], answers=True))


def _loss(lm: LM, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss of a whole text, none of an encoder-decoder's, and that of its answers."""
    logits = lm.forward(batch)
    answers = torch.nn.functional.cross_entropy(logits[batch.rows, batch.cols], batch.labels)
    if lm.row.kind != "decoder":
        return answers, answers
    ids, real = batch.inputs["input_ids"][:, 1:], batch.inputs["attention_mask"][:, 1:].bool()
    return torch.nn.functional.cross_entropy(logits[:, :-1][real], ids[real]), answers


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
