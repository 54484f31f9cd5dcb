"""General ability: tasks of lm-evaluation-harness, asked of the model in memory as it stands.

    harness = Harness(["mmlu", "my_tasks/", "my_tasks/capitals.yaml"])
    rows = harness.rows(Scorer(lm), About(checkpoint=100))

Needs `pip install 'errata-lm[eval]'`. Tasks are asked whole, with the few-shot examples and seeds the harness uses itself,
so that numbers compare with published ones; one row a document is the evidence. A name is one the harness knows, and
its data come from where the `datasets` library finds them; a path is a task file or a directory of them, and with local
data in them nothing is fetched. A task file may name Python functions that lie beside it, and these are run.
"""

from __future__ import annotations

import io
import os
import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from errata.errors import BadConfig, did_you_mean
from errata.evaluate.metrics import HARNESS, Score, general_ability
from errata.evaluate.rows import About, free_row
from errata.evaluate.scorer import Scorer

SHOWN = 300  # last characters of a prompt that stand in its row; few-shot examples are before them
SEED, EXAMPLES_SEED = 0, 1234  # what the harness itself seeds `random` and everything else with


class Harness:
    """Tasks, loaded once and asked as often as wanted.

    Args:
        names: names or tags or groups the harness knows, task files, or directories of them.

    Raises:
        BadConfig: lm-evaluation-harness is not installed, knows no such task, or cannot load it.
    """

    def __init__(self, names: Sequence[str]) -> None:
        if find_spec("lm_eval") is None:
            raise BadConfig("general ability is measured with lm-evaluation-harness: pip install 'errata-lm[eval]'.")
        self.names = tuple(names)
        with _undisturbed():
            self.version = str(import_module("lm_eval").__version__)
            parts = [_load(name) for name in names]
        self._tasks = {title: task for tasks, _ in parts for title, task in tasks.items()}
        self._titles = {leaf: title for _, groups in parts for leaf, title in groups.items()}

    def rows(self, scorer: Scorer, about: About) -> list[dict[str, Any]]:
        """Return a row for each document of each task, and one for each figure that is no mean over documents.

        A row: case (task and number of the document), probe ("harness." and the task, or its group where that is a mean
        over all its documents), the end of the prompt, expected, said and scores.
        """
        with _undisturbed():
            evaluate = import_module("lm_eval.evaluator").evaluate
            asked = import_module("errata.evaluate.harness_model").Asked(scorer)
            for task in self._tasks.values():
                task.set_fewshot_seed(seed=EXAMPLES_SEED)  # or the second time it would show other examples
            found = evaluate(asked, {"tasks": self._tasks, "groups": {}}, bootstrap_iters=0)
        return [row for name in self._tasks for row in self._task_rows(name, found, about)]

    def _task_rows(self, name: str, found: Mapping[str, Any], about: About) -> Iterator[dict[str, Any]]:
        probe, means = HARNESS + self._titles.get(name, name), _means(self._tasks[name])
        scores: dict[int, dict[str, Score]] = {}
        samples: dict[int, Mapping[str, Any]] = {}
        for sample in found["samples"][name]:
            samples.setdefault(sample["doc_id"], sample)
            mine = scores.setdefault(sample["doc_id"], {})
            mine |= {_score(m, sample["filter"]): general_ability(sample[m]) for m in sample["metrics"] if m in means}
        for number, sample in sorted(samples.items()):
            if not scores[number]:
                continue
            prompt, expected, said = _document(sample)
            row = free_row(about, f"{name}/{number}", probe, scores[number], prompt[-SHOWN:], said)
            yield {**row, "expected": expected}
        for key, value in sorted(found["results"][name].items()):
            metric, comma, kind = key.partition(",")
            if comma and not metric.endswith("_stderr") and metric not in means:
                yield free_row(about, name, HARNESS + name, {_score(metric, kind): general_ability(value)})


def _load(name: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tasks of a name, and for those of a group that is the mean over its documents the group's name."""
    manager = import_module("lm_eval.tasks").TaskManager
    path = Path(name).expanduser()
    local = path.exists() or path.suffix in (".yaml", ".yml")
    try:
        if local:
            known = manager(include_path=str(path if path.is_dir() else path.parent), include_defaults=False)
            here = [entry.name for entry in known.task_index.values() if entry.yaml_path == path]
            wanted = known.all_subtasks if path.is_dir() else here or [str(path)]
        else:
            known, wanted = manager(), [name]
        if not local and name not in known.all_tasks:
            raise BadConfig(
                f"lm-evaluation-harness has no task {name!r}.{did_you_mean(name, known.all_tasks)} "
                "`lm-eval ls tasks` lists them; a path names a task file or a directory."
            )
        found = known.load(wanted)
    except BadConfig:
        raise
    except Exception as error:  # whatever the harness, YAML, datasets and the network raise: they do not say
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadConfig(
            f"the task {name} cannot be loaded ({why}); see that its file and its data are here."
        ) from error
    if not found["tasks"]:
        raise BadConfig(f"{name} holds no task; a task is a .yaml file with `task:`, as the harness describes it.")
    for task in found["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    groups = [group for group in found.get("groups", {}).values() if _is_mean(group)]
    largest = sorted(groups, key=lambda group: len(group.get_all_tasks()))
    return found["tasks"], {task.task_name: group.name for group in largest for task in group.get_all_tasks()}


def _is_mean(group: Any) -> bool:
    """Return whether a group's number is the mean over the documents of all its tasks, as MMLU's is."""
    parts = group.aggregate_metric_list or []
    return bool(parts) and all(part.aggregation == "mean" and part.weight_by_size for part in parts)


def _means(task: Any) -> set[str]:
    """Return the task's metrics that are means over its documents."""
    kinds = {name: getattr(function, "__name__", "") for name, function in task.aggregation().items()}
    return {name for name, kind in kinds.items() if kind in ("mean", "nanmean")}


def _score(metric: str, kind: str) -> str:
    return metric if kind == "none" else f"{metric}.{kind}"


def _document(sample: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """Return (prompt, expected, said); of a choice, the one the model finds likeliest."""
    asked, given, target = sample["arguments"], sample["filtered_resps"], sample["target"]
    if isinstance(given[0], str):
        return str(asked[0][0]), str(target), given[0]
    if len(asked) < 2:
        return str(asked[0][0]), str(target), None
    choices = [str(argument[-1]).strip() for argument in asked]
    best = max(range(len(given)), key=lambda i: given[i][0])
    right = choices[target] if isinstance(target, int) and 0 <= target < len(choices) else str(target)
    return str(asked[0][0]), right, choices[best]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let the harness seed, warn, print and set variables as it likes, and leave the process as it was.

    It starts from the same seeds each time.
    """
    environment, state, numbers = dict(os.environ), random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    silence = io.StringIO()
    try:
        with warnings.catch_warnings(), redirect_stderr(silence), redirect_stdout(silence):
            warnings.simplefilter("ignore")
            with torch.random.fork_rng(devices=devices):
                random.seed(SEED)
                np.random.seed(EXAMPLES_SEED)
                torch.manual_seed(EXAMPLES_SEED)
                yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)
