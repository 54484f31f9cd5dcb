"""Run directories made up to look like real ones: each method has a story, and nothing here is measured."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHECKPOINTS = (1, 10, 50, 100, 300)
NEVER = 10**9

# method: (efficacy alone, edits at which saying collapses, neighbourhood kept, bytes an edit, seconds an edit, MiB)
STORIES: dict[str, tuple[float, float, float, int, float, int]] = {
    "rome": (1.00, 22, 0.97, 3_400, 0.41, 210),
    "memit": (0.99, 900, 0.95, 13_600, 0.19, 260),
    "ft": (1.00, 8, 0.55, 491_520, 0.06, 330),
    "none": (0.21, NEVER, 1.00, 0, 0.0001, 96),
    "alphaedit": (0.98, 2_500, 0.98, 13_600, 0.24, 290),
    "grace": (1.00, NEVER, 1.00, 1_540, 0.33, 140),
    "oedit": (0.96, 600, 0.96, 9_800, 0.52, 300),
    "melo": (0.97, 1_200, 0.93, 5_120, 0.71, 240),
}
ASKED = (
    "The mother tongue of {} is",
    "{} was born in the city of",
    "{} is employed by",
    "The headquarters of {} are in",
)
NAMES = ("Danielle Darrieux", "Léon Blum", "Go Hyeon-jeong", "Thomas Joannes Stieltjes", "Ibn <b>Sina</b>", "Émilie")


def value(mean: float | None, n: int) -> dict[str, Any]:
    """Return a metric as summary.json has it: the interval of a share among n facts."""
    known = mean is not None and n > 1
    spread = round(1.96 * (max(mean * (1 - mean), 0.002) / n) ** 0.5, 4) if mean is not None and known else None
    return {"mean": mean, "half_width": spread, "n": n}


def metrics(method: str, edits: int, n: int) -> dict[str, Any]:
    """Return every metric after `edits` edits; 0 is the unedited model."""
    efficacy, collapse, kept, *_ = STORIES[method]
    alive = 1 / (1 + (edits / collapse) ** 2.2)
    wear = 1 / (1 + (edits / (collapse * 6)) ** 1.5)
    said = 0.02 if edits == 0 or method == "none" else (efficacy - 0.03) * alive
    forced = 0.21 if edits == 0 else 0.5 + (efficacy - 0.5) * wear if method != "none" else 0.21
    near = 0.82 if edits == 0 else 0.45 + 0.37 * kept * wear
    perplexity = 21.4 * (1 + (edits / (collapse * 3)) ** 2.6)
    shares = {
        "efficacy": forced,
        "paraphrase": 0.24 if forced == 0.21 else forced * 0.93,
        "rephrase_easyedit": 0.22 if forced == 0.21 else forced * 0.71,
        "neighborhood": near,
        "score": 3 / (1 / forced + 1 / (forced * 0.93) + 1 / near),
        "exact": said * 1.02 if said < 0.95 else said,
        "token_accuracy": min(1.0, said * 1.05 + 0.1),
        "said": said,
        "said_contains": min(1.0, said * 1.03),
        "said_paraphrase": said * 0.84,
        "locality_unchanged": 1.0 if edits == 0 else near / 0.82,
        "locality_gold": 0.32 * near / 0.82,
        "portability": said * 0.4,
        "portability.alias": said * 0.6,
        "portability.one_hop": said * 0.31,
        "retention_oldest": said * alive,
        "retention_newest": said * min(1.0, 0.5 + alive),
        "retention_random": said,
    }
    scored = {name: value(round(mean, 4), n) for name, mean in shares.items()}
    scored["perplexity"] = {"mean": round(perplexity, 3), "half_width": round(perplexity * 0.03, 3), "n": 40}
    scored["fluency"] = {"mean": 612.0 * min(1.0, 0.6 + 0.4 * wear), "half_width": 4.1, "n": n}
    scored["consistency"] = value(0.03 + 0.3 * said, n)
    scored["drift"] = {"mean": 0.0 if edits == 0 else 0.002 * edits / min(collapse, 900), "half_width": 0.001, "n": 40}
    scored["norm_ratio"] = {"mean": 0.0 if edits == 0 else 0.01 * edits**0.6, "half_width": None, "n": 3}
    return scored


def checkpoint(method: str, edits: int, n: int) -> dict[str, Any]:
    """Return one checkpoint as summary.json has it."""
    *_, size, seconds, memory = STORIES[method]
    cost = {"seconds": 12.5 + edits * seconds, "peak_bytes": memory * 2**20}
    each = {"bytes_per_edit": float(size), "seconds_per_edit": seconds} if edits else {}
    return {"edits": edits, "metrics": metrics(method, edits, n), **cost, **each}


def rows(method: str, checkpoints: Sequence[int], seed: int) -> list[dict[str, Any]]:
    """Return rows of a few probes a checkpoint, said rightly as often as the story has it."""
    dice, found = random.Random(f"{method} {seed}"), []
    for edits in checkpoints:
        chance = metrics(method, edits, 300)["said"]["mean"]
        for number in range(30):
            prompt = ASKED[number % len(ASKED)].format(NAMES[number % len(NAMES)])
            right = dice.random() < chance
            babble = dice.choice(
                ["French", "the the the the the the", "", "of Paris Paris Paris", "I'm <not> sure & so"]
            )
            row: dict[str, Any] = {
                "case": f"cf-{number}",
                "edits": [f"{number:016x}"],
                "probe": "edit",
                "method": method,
            }
            row |= {"prompt": prompt, "expected": "English", "said": "English" if right else babble}
            row |= {"lp_new": -0.1 if right else -9 * dice.random() - 1, "lp_true": -2.0, "checkpoint": edits}
            row["scores"] = {"efficacy": 1.0, "exact": float(right), "said": float(right)}
            found.append(row)
    return found


def run(
    root: Path,
    method: str,
    *,
    independent: bool = False,
    checkpoints: Sequence[int] = CHECKPOINTS,
    stop_after: int | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a run directory below `root` and return it."""
    mode = "independent" if independent else "sequential"
    directory = root / f"{method}-{mode}"
    directory.mkdir(parents=True, exist_ok=True)
    reached = [1] if independent else [t for t in checkpoints if stop_after is None or t <= stop_after]
    config = {"layers": [5], "lr": 0.5, "steps": 25}
    common: dict[str, Any] = {"method": method, "config": config, "model": "cf-llama-20m", "cases": "counterfact:300"}
    common |= {"seed": 0, "mode": mode, "versions": {"errata": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}}
    command = f"errata bench --model ./cf-llama-20m --cases counterfact:counterfact.json --method {method} --edits 300"
    whole = {**common, "options": {}, "fingerprint": "9f2c51d0aa37", "batch": 1, "width": 192, "inner": 640}
    whole |= {"command": command + (" --independent" if independent else ""), **(about or {})}
    points = [checkpoint(method, t, 300 if independent else max(t, 1) if t else 300) for t in [0, *reached]]
    stopped = f"perplexity 1234 at {stop_after} edits" if stop_after else None
    summary = {**common, "checkpoints": points, "refused": 2 if method == "rome" else 0, "stopped": stopped}
    write(directory, whole, summary, rows(method, reached, 0))
    return directory


def write(directory: Path, about: Mapping[str, Any], summary: Mapping[str, Any], lines: Sequence[Any]) -> None:
    """Write the three files of a run."""
    (directory / "run.json").write_text(json.dumps(about), encoding="utf-8")
    (directory / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (directory / "rows.jsonl").write_text(text, encoding="utf-8")
