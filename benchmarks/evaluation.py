"""What evaluation costs beyond the forward passes it cannot do without.

    python benchmarks/evaluation.py [--model primer] [--cases primer:1000] [--repeats 3] [--generation]

Asks all cases all their probes and notes every batch that went through the model: answers, and each step of what was
said. Then, alternately, the whole evaluation (tokenisation, probes, scores and rows included) and those batches alone are
timed; with --again also the evaluation with texts already tokenised, as at every checkpoint but the first. Prints one JSON
line with medians in seconds and their ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from errata.data.case import PROBES
from errata.data.cases import parse
from errata.evaluate.probes import Options
from errata.evaluate.rows import score
from errata.evaluate.scorer import Scorer
from errata.model.lm import LM
from errata.model.loading import load
from errata.model.tokens import Batch
from errata.model.trace import answers_only


@dataclass
class Passes:
    """The forward passes of an evaluation: batches of answers, and steps of speech as (ids, mask, goes on)."""

    answers: list[Batch] = field(default_factory=list)
    steps: list[tuple[Tensor, Tensor, bool]] = field(default_factory=list)

    @classmethod
    def of(cls, lm: LM, work: Callable[[], object]) -> Passes:
        """Do the work and return what went through the model."""
        found, answer_logits, forward = cls(), lm.answer_logits, lm.model.forward

        def answering(batch: Batch, cache: Any = None) -> Tensor:
            found.answers.append(batch)
            return answer_logits(batch, cache)

        def stepping(**given: Any) -> Any:
            if given.get("use_cache"):
                goes_on = given["past_key_values"] is not None
                found.steps.append((given["input_ids"].clone(), given["attention_mask"].clone(), goes_on))
            return forward(**given)

        lm.answer_logits, lm.model.forward = answering, stepping  # type: ignore[method-assign]
        try:
            work()
        finally:
            del lm.answer_logits, lm.model.forward
        return found

    @torch.no_grad()
    def again(self, lm: LM) -> None:
        """Do them again and nothing else."""
        for batch in self.answers:
            lm.answer_logits(batch)
        cache: Any = None
        rows = 0
        for ids, mask, goes_on in self.steps:
            if goes_on and len(ids) < rows:
                cache.batch_select_indices(torch.arange(len(ids)))
            rows = len(ids)
            at = torch.arange(len(ids), device=ids.device), torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)
            with answers_only(lm, *at):
                given = {"past_key_values": cache if goes_on else None, "use_cache": True}
                cache = lm.model(input_ids=ids, attention_mask=mask, **given).past_key_values


def timed(work: Callable[[], object]) -> float:
    """Return the seconds it takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    lm, cases = load(options.model), list(parse(options.cases, seed=1))[: options.limit]
    asked = Options(probes=PROBES if options.generation else Options().probes)
    kept, base = Scorer(lm), list[dict[str, Any]]()
    # Later ones are measured against this one, as checkpoints are; that adds passes where a probe has no gold answer.
    passes = Passes.of(lm, lambda: base.extend(score(lm, cases, options=asked, scorer=kept)))
    taken: dict[str, list[float]] = {"first": [], "passes": []} | ({"again": []} if options.again else {})
    for _ in range(options.repeats):
        taken["first"].append(timed(lambda: score(lm, cases, base=base, options=asked)))
        taken["passes"].append(timed(lambda: passes.again(lm)))
        if options.again:
            taken["again"].append(timed(lambda: score(lm, cases, base=base, options=asked, scorer=kept)))
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    found: dict[str, Any] = {"model": options.model, "cases": len(cases), "rows": len(base), "repeats": options.repeats}
    found |= {"batches": len(passes.answers), "steps": len(passes.steps)}
    found |= {name: round(seconds, 2) for name, seconds in middle.items()}
    found |= {f"{name}_ratio": round(middle[name] / middle["passes"], 2) for name in taken if name != "passes"}
    print(json.dumps(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="primer")
    parser.add_argument("--cases", default="primer:1000")
    parser.add_argument("--limit", type=int, help="only so many of the cases")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--generation", action="store_true", help="also generate freely")
    parser.add_argument("--again", action="store_true", help="also time it with texts already tokenised")
    main(parser.parse_args())
