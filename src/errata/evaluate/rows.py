"""Cases asked of a model: one JSON-able row for every probe.

    base = score(lm, cases)                                        # the unedited model, always first
    rows = score(lm, cases, base=base, about=About(checkpoint=100, method="rome", model=lm.fingerprint))

A row: case, edits, probe, prompt, expected (alternatives, where there are several), said, lp_new, lp_true, scores
(by name; null where not scored), argmax (probes of locality), known_before, checkpoint, method, config, model,
seed. Rows hold no times and depend on nothing but model, cases and options, so a run that was resumed gives the
same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from errata.data.case import WILD, Case
from errata.evaluate import metrics
from errata.evaluate.metrics import Row, Score, TfIdf
from errata.evaluate.probes import Ask, Options, plan
from errata.evaluate.scorer import PromptAnswer, Scored, Scorer
from errata.evaluate.summary import known_before
from errata.model.lm import LM
from errata.model.query import Prompt, Query
from errata.model.tokens import Room

DIGITS = 6  # of what goes into a row


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a run writes into each of its rows.

    Args:
        checkpoint: edits so far; 0 is the unedited model. method, config: its name and the hash of its settings.
        model: fingerprint of the base. seed: of the run. edits: ids of the edits that wrote a case, by case.
    """

    checkpoint: int = 0
    method: str = ""
    config: str = ""
    model: str = ""
    seed: int = 0
    edits: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def fields(self, case: str) -> dict[str, Any]:
        """Return the fields for a row of `case`."""
        names = ("checkpoint", "method", "config", "model", "seed")
        return {**{name: getattr(self, name) for name in names}, "edits": list(self.edits.get(case, ()))}


@dataclass(frozen=True, slots=True)
class _Found:
    """All that was found out about one probe."""

    ask: Ask
    scored: Mapping[PromptAnswer, Scored]
    said: str | None
    chat: str | None
    before: Row | None

    def of(self, answer: str) -> Scored:
        return self.scored.get((self.ask.asked, answer), Scored())

    @property
    def rival(self) -> Scored:
        """What the new answer is compared with: another answer here, or the same after another prompt."""
        other = self.ask.other
        return self.scored.get((self.ask.put(other), self.ask.new), Scored()) if other else self.of(self.ask.true)

    @property
    def first(self) -> Scored:
        return self.of(self.ask.expected[0]) if self.ask.expected else Scored()


def config_hash(config: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits for a method's settings, the same for equal settings in any order."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()[:16]


def score(
    lm: LM,
    cases: Sequence[Case],
    *,
    base: Iterable[Row] | None = None,
    about: About | None = None,
    options: Options | None = None,
    scorer: Scorer | None = None,
) -> list[dict[str, Any]]:
    """Return one row for every probe of every case, in the order of `plan`.

    Args:
        lm: the model as it stands.
        base: the rows of the unedited model, as this function returned them; None if this is the unedited model.
            Against them `locality_unchanged` is measured, and from them comes what is said to be known before.
        about: what is written into each row. options: how to ask.
        scorer: keep one through a run, so that texts are tokenised once.
    """
    about, options, scorer = about or About(), options or Options(), scorer or Scorer(lm)
    chats = options.chat and scorer.lm.tokens.chat.exists
    asks = _thought(scorer, [ask for ask in plan(cases, options) if chats or not ask.turn], options.length)
    kept = None if base is None else list(base)
    before = _Before(kept)
    said = _speech(scorer, asks, options.length)
    twice = [ask for ask in asks if ask.probe not in WILD and not ask.turn] if chats else []
    chat = _speech(scorer, twice, options.length, chat=True)
    pairs = dict.fromkeys(p for a in asks for p in sorted(a.pairs | _echo(a, before.get(a.key)), key=lambda p: p[1]))
    scored = scorer.answers(pairs)
    rows = [
        _row(_Found(a, scored, said.get(a.asked), chat.get(_turn(a)), before.get(a.key)), about)
        for a in asks
        if a.probe != "generation"
    ]
    rows += _generated(cases, asks, about, options, scorer)
    knew = known_before(rows if kept is None else kept)
    order = {case.id: place for place, case in enumerate(cases)}
    return sorted(({**r, "known_before": knew.get(r["case"])} for r in rows), key=lambda r: order[r["case"]])


class _Before:
    """The rows of the unedited model by probe; a probe it was not asked has a row in which nothing is known."""

    def __init__(self, base: Sequence[Row] | None) -> None:
        self._rows: dict[tuple[str, ...], Row] = {
            (row["case"], row["probe"], row["prompt"], row["expected"]): row for row in base or ()
        }
        self._none: Row | None = None if base is None else {"scores": {}, "said": None}

    def get(self, key: tuple[str, ...]) -> Row | None:
        return self._rows.get(key) or self._none


def _echo(ask: Ask, before: Row | None) -> set[PromptAnswer]:
    """Return what the unedited model said, to be scored where a probe has no gold answer."""
    wanted = ask.probe in _KEEPING and not ask.expected
    return {(ask.asked, before["said"])} if before and before["said"] and wanted else set()


def _row(found: _Found, about: About) -> dict[str, Any]:
    ask = found.ask
    scores = _SCORES[ask.probe.partition(".")[0]](found) | _as_text(found)
    row = {
        **about.fields(ask.case),
        "case": ask.case,
        "probe": ask.probe,
        "prompt": ask.prompt,
        "expected": ask.key[-1],
        "said": found.said,
        "lp_new": _rounded(found.of(ask.new).lp),
        "lp_true": _rounded(found.rival.lp),
        "scores": {name: _rounded(value) for name, value in scores.items()},
    }
    if len(ask.expected) > 1:
        row["alternatives"] = list(ask.expected[1:])
    if found.chat is not None:
        row["said_chat"] = found.chat
    if ask.probe in _KEEPING:
        row["argmax"] = list(found.first.top)
    return row


def _as_text(found: _Found) -> dict[str, Score]:
    """Return how likely the answer is as a text, and how much of it is said, where it is a sentence."""
    answer = found.ask.key[-1]
    if len(answer.split()) < metrics.SENTENCE:
        return {}
    scores: dict[str, Score] = {"nll": None if found.first.lp is None else -found.first.lp}
    if found.ask.probe in ("edit", "paraphrase"):
        scores |= {
            "rouge_l": metrics.rouge_l(found.said, answer),
            "said_in_part": metrics.said_in_part(found.said, answer),
            "sentences_said": metrics.sentences_said(found.said, answer),
        }
        if found.chat is not None:
            scores["rouge_l_chat"] = metrics.rouge_l(found.chat, answer)
    return scores


def _rounded(value: Score) -> Score:
    return None if value is None else round(value, DIGITS)


def _on_edit(found: _Found) -> dict[str, Score]:
    scores = {"efficacy": metrics.efficacy(found.of(found.ask.new).lp, found.of(found.ask.true).lp), **_answered(found)}
    if found.ask.probe == "edit":
        scores["said_true"] = _says_true(found) if found.ask.true else None
    return scores


def _says_true(found: _Found) -> Score:
    return metrics.said(found.said, (found.ask.true,), reply=found.ask.reply)


def _answered(found: _Found) -> dict[str, Score]:
    expected, hits = found.ask.expected, found.first.hits
    scores = {
        "exact": metrics.exact(hits),
        "token_accuracy": metrics.token_accuracy(hits),
        "said": metrics.said(found.said, expected, reply=found.ask.reply),
        "said_contains": metrics.said_contains(found.said, expected),
    }
    return scores if found.chat is None else {**scores, "said_chat": metrics.said(found.chat, expected, reply=True)}


def _on_question(found: _Found) -> dict[str, Score]:
    return {"said": metrics.replied(found.said, found.ask.expected, found.ask.true, asked=found.ask.prompt)}


def _on_neighborhood(found: _Found) -> dict[str, Score]:
    compared = metrics.neighborhood(found.of(found.ask.new).lp, found.of(found.ask.true).lp)
    return {"neighborhood": compared, "token_accuracy": metrics.token_accuracy(found.first.hits), **_unchanged(found)}


def _on_unrelated(found: _Found) -> dict[str, Score]:
    if not found.ask.expected:
        return _unchanged(found)
    gold: dict[str, Score] = {"locality_gold": metrics.locality_gold(found.first.hits)}
    if found.before is not None:
        gold["locality_gold_before"] = found.before["scores"].get("locality_gold")
    return {**gold, **_unchanged(found)}


def _unchanged(found: _Found) -> dict[str, Score]:
    """Return `locality_unchanged`: against the unedited model's choice at the gold answer's places, or what it said."""
    if found.before is None:
        return {}
    if found.ask.expected:
        base, now = found.before.get("argmax", ()), found.first.top
        return {"locality_unchanged": metrics.locality_unchanged(now, base) if len(now) == len(base) else None}
    earlier: str | None = found.before["said"]
    if earlier is not None and not earlier.strip():  # it ended at once, and that is the one place to compare
        return {"locality_unchanged": None if found.said is None else float(not found.said.strip())}
    return {"locality_unchanged": metrics.token_accuracy(found.of(earlier or "").hits)}


def _on_negation(found: _Found) -> dict[str, Score]:
    new, true = found.of(found.ask.new), found.of(found.ask.true)
    scores = {"negation": metrics.negation(found.said, found.ask.new, reply=found.ask.reply)}
    if found.ask.true:
        scores["negation_efficacy"] = metrics.negation_efficacy(new.lp, true.lp)
        scores["negation_old"] = metrics.negation(found.said, found.ask.true, reply=found.ask.reply)
    return scores


def _on_reversed(found: _Found) -> dict[str, Score]:
    scores = {"reversed_said": metrics.reversed_said(found.said, found.ask.expected)}
    compared = metrics.reversal(found.of(found.ask.new).lp, found.rival.lp)
    return scores | ({"reversed": compared} if found.ask.other else {})


def _on_neighborhood_plus(found: _Found) -> dict[str, Score]:
    return {"neighborhood_plus": metrics.neighborhood_plus(found.of(found.ask.new).lp, found.of(found.ask.true).lp)}


def _on_grounded(found: _Found) -> dict[str, Score]:
    return {"grounded": metrics.grounded(found.ask.thought, found.ask.new, found.said, found.ask.expected)}


_KEEPING = ("neighborhood", "unrelated", "same_subject")
_SCORES: Mapping[str, Callable[[_Found], dict[str, Score]]] = {
    "edit": _on_edit,
    "paraphrase": _on_edit,
    "question": _on_question,
    "rephrase_easyedit": _on_edit,
    "neighborhood": _on_neighborhood,
    "unrelated": _on_unrelated,
    "portability": _answered,
    "negation": _on_negation,
    "reversed": _on_reversed,
    "same_subject": _unchanged,
    "distractor": _on_edit,
    "neighborhood_plus": _on_neighborhood_plus,
    "grounded": _on_grounded,
    "reworded": _on_edit,
    "language": _on_edit,
}


def _thought(scorer: Scorer, asks: Sequence[Ask], length: int) -> list[Ask]:
    """Return the probes, those with a first step after what the model says to that."""
    steps = list(dict.fromkeys(ask.put(ask.step) for ask in asks if ask.step))
    said = scorer.said(steps, length) if steps else {}
    return [ask.after(said[ask.put(ask.step)]) if ask.step else ask for ask in asks]


def _turn(ask: Ask) -> Prompt:
    """Return a prompt as a user's turn in the model's chat template."""
    return ask.asked if ask.reply else Query(ask.prompt, role="user")


def _speech(scorer: Scorer, asks: Iterable[Ask], least: int, *, chat: bool = False) -> dict[Prompt, str | None]:
    """Return what is said after each prompt, in as many tokens as its own answers need: the same whoever else is asked."""
    rooms: dict[Prompt, Room] = {}
    for ask in asks:
        if ask.speaks:
            prompt = _turn(ask) if chat else ask.asked
            own, other = scorer.room(ask.expected, least), rooms.get(prompt, Room(0))
            rooms[prompt] = Room(max(own.tokens, other.tokens), max(own.lines, other.lines))
    found: dict[Prompt, str | None] = {}
    for size in sorted(set(rooms.values())):
        found |= scorer.said([prompt for prompt, room in rooms.items() if room == size], size)
    return found


def _generated(
    cases: Sequence[Case], asks: Sequence[Ask], about: About, options: Options, scorer: Scorer
) -> Iterator[dict[str, Any]]:
    """Yield a row for each free generation, and for each case with references one that compares the two."""
    prompts: dict[str, list[str]] = defaultdict(list)
    for ask in asks:
        if ask.probe == "generation":
            prompts[ask.case].append(ask.prompt)
    if not prompts:
        return
    texts = scorer.sampled((p for asked in prompts.values() for p in asked), options.sample, options.seed)
    idf = options.idf or TfIdf(text for case in cases for text in case.references)
    for case in cases:
        said = [(prompt, texts[prompt]) for prompt in prompts.get(case.id, ())]
        for prompt, text in said:
            scores = {"fluency": metrics.fluency(text) if text else None}
            yield free_row(about, case.id, "generation", scores, prompt, text)
        if said and case.references:
            same = metrics.consistency([text for _, text in said if text], case.references, idf)
            yield free_row(about, case.id, "consistency", {"consistency": same})


def free_row(
    about: About, case: str, probe: str, scores: Mapping[str, Score], prompt: str = "", said: str | None = None
) -> dict[str, Any]:
    """Return the row of something that was not asked with an answer in mind: a generation, a text, a matrix."""
    return {
        **about.fields(case),
        **{"case": case, "probe": probe, "prompt": prompt, "expected": "", "said": said},
        **{"lp_new": None, "lp_true": None, "known_before": None},
        "scores": {name: _rounded(value) for name, value in scores.items()},
    }
