"""Benchmark runs: cases edited one after the other or each alone, measured at checkpoints, resumable to the same bytes.

A run lives in a directory: `run.json` (what was asked for), `rows.jsonl` (every probe), `marks.jsonl` (how far the rows
are complete), `book/` (the edits of a sequential run), `summary.json` (the numbers, written last). A unit of work is a
checkpoint, or a case of an independent run: its rows are on the disk before its mark is, so a killed run cuts its rows
at the last mark and goes on from there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from errata import methods
from errata.bench.pace import Pace
from errata.bench.run_files import append, begun_as, costs, keep, marks, peak_bytes, same_run
from errata.book.book import Book
from errata.config import to_dict
from errata.data.case import QUANTISED, WILD, Case, with_subject
from errata.delta import Site
from errata.edit import Edit
from errata.editing.standing import load
from errata.editing.writing import MAX_NORM_RATIO, guard, solve
from errata.errors import BadConfig, BadFact, UpdateTooLarge
from errata.evaluate.harness import Harness
from errata.evaluate.judge import judged, named
from errata.evaluate.metrics import TfIdf, retention
from errata.evaluate.perplexity import Read, measure, site_rows, text_rows
from errata.evaluate.probes import Options
from errata.evaluate.quantised import quantised
from errata.evaluate.rows import About, config_hash, score
from errata.evaluate.scorer import Scorer
from errata.evaluate.summary import at, dump_row, read_rows, summarize
from errata.evaluate.wild import spoken
from errata.fact import check_consistent
from errata.methods.base import Method, versions
from errata.model.lm import LM
from errata.stats.corpus import open_corpus

CONTROL = "none"  # writes nothing; what every method is to be compared with
ALL = 300  # up to this many edits every case is asked at a checkpoint, beyond it the groups of retention
TEXTS = 60  # texts of the perplexity
Tell = Callable[[int, int, float | None], None]  # edits done, edits wanted, seconds left if that can be told
_Found = TypeVar("_Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run does.

    Args:
        cases: their name, as `errata.data.cases.parse` takes it.
        edits: how many cases are edited. batch: facts an edit, for methods that write batches.
        checkpoints: numbers of edits at which everything is measured; the last edit always is one.
        independent: each case alone, taken back afterwards.
        generation: also generate freely (fluency, consistency); slow.
        stop_at_perplexity: end a sequential run whose model has collapsed beyond this.
        text: corpus of the perplexity. command: for the report.
        harness: tasks of lm-evaluation-harness, asked of the unedited model and of the last checkpoint's.
        judge: who also reads what is said, as `errata.evaluate.judge.named` takes it; nobody unless given.
        max_norm_ratio: largest ‖ΔW‖/‖W‖ of one fact, beyond which an edit is refused and the run ends, as
            `errata.editing.writing.guard`; None, the one exception to how edits are written, measures what any update does.
        probes: more to ask than cases bring: of `errata.data.case.WILD` and `QUANTISED`.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cases: str = ""
    edits: int = 100
    batch: int = 1
    checkpoints: tuple[int, ...] = (1, 10, 100, 1000, 10000)
    independent: bool = False
    seed: int = 0
    generation: bool = False
    stop_at_perplexity: float | None = None
    text: str = "auto"
    command: str = ""
    harness: tuple[str, ...] = ()
    judge: str = ""
    max_norm_ratio: float | None = None
    probes: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """Return "independent" or "sequential"."""
        return "independent" if self.independent else "sequential"


def refused(edit: Edit) -> bool:
    """Say whether `errata edit` would have refused what is measured here: too large, or facts that contradict each other."""
    try:
        check_consistent(edit.facts)
        guard(edit, MAX_NORM_RATIO)
    except (BadFact, UpdateTooLarge):
        return True
    return False


class Run:
    """One method on one set of cases, in one directory.

    Args:
        lm: the base model; put back when the run ends.
        cases: at least `plan.edits` of them. out: the directory, new or of this very run.

    Raises:
        BadConfig: the directory holds another run, nothing of the cases can be edited, or the harness lacks a task.
        UnknownMethod: no such method.
    """

    def __init__(self, plan: Plan, lm: LM, cases: Sequence[Case], out: Path) -> None:
        plan = replace(plan, text=open_corpus(plan.text, lm).name)
        self._plan, self._lm, self._out = plan, lm, out
        given = list(islice(cases, plan.edits))
        located = plan.method != CONTROL and methods.get(plan.method).located
        self._cases, self._refused = with_subject(given, plan.method) if located else (given, [])
        if not self._cases:
            raise BadConfig(
                f"{plan.method} can edit none of the {len(given)} cases of {plan.cases}: they name no subject."
            )
        self._method = None if plan.method == CONTROL else methods.make(plan.method, dict(plan.options))
        config = {} if self._method is None else to_dict(self._method.resolve(lm))
        self._base_name = begun_as(out / "run.json", lm)
        self._about = About(method=plan.method, config=config_hash(config), model=self._base_name, seed=plan.seed)
        self._harness, self._judge = self._tasks(), named(plan.judge) if plan.judge else None
        self._scorer, self._texts = Scorer(lm), list(islice(open_corpus(plan.text).documents(lm), TEXTS))
        self._options = self._asking()
        self._identity = {
            **asdict(plan),
            "config": config,
            "mode": plan.mode,
            "model": lm.name,
            "fingerprint": self._base_name,
        }
        if not plan.probes:  # a run begun before there were any goes on
            del self._identity["probes"]
        self._identity |= {"width": lm.width, "inner": lm.inner, "versions": versions()}
        if self._judge is not None:
            self._identity["judge"] = {"name": self._judge.name, "prompt": self._judge.prompt}
        if self._harness is not None:
            self._identity["versions"]["lm_eval"] = self._harness.version
        self._stopped: str | None = None
        self._spent: list[tuple[float, int, int]] = []  # seconds, facts and bytes of the edits since the last mark
        self._unwritable = 0  # of them, those that `errata edit` would have refused
        self._open()

    def _asking(self) -> Options:
        """Return how cases are asked: with what languages the model has, where that matters."""
        plan, more = self._plan, [name for name in self._plan.probes if name in WILD]
        tongues: tuple[str, ...] = ()
        if "language" in more:
            with self._lm.weights.at_base():
                tongues = self._once("languages", (), lambda: spoken(self._scorer))
        kinds = (*Options().probes, *more, *(("generation",) if plan.generation else ()))
        idf = TfIdf(text for case in self._cases for text in case.references)
        return Options(probes=kinds, seed=plan.seed, idf=idf, languages=tongues)

    def _tasks(self) -> Harness | None:
        if self._plan.harness and self._plan.independent:
            raise BadConfig("--harness asks one model with all edits in it; leave --independent out.")
        return Harness(self._plan.harness) if self._plan.harness else None

    def _open(self) -> None:
        self._out.mkdir(parents=True, exist_ok=True)
        same_run(self._out / "run.json", self._identity)
        self._marks = marks(self._out / "marks.jsonl")
        size = self._marks[-1]["bytes"] if self._marks else 0
        with (self._out / "rows.jsonl").open("ab") as rows:
            rows.truncate(size)

    def go(self, tell: Tell | None = None) -> dict[str, Any]:
        """Do what is left of the run and return its summary.

        Args:
            tell: called with (edits done, edits wanted, seconds left: None while that cannot be told).
        """
        self._tell, self._pace = tell, Pace(self._work())
        try:
            self._lm.weights.stand([])
            self._before: Read = self._once("text", (self._plan.text,), partial(self._read, wanted=False))
            self._unit("base", 0, self._unedited)
            self._general_ability(0)
            self._base = at(read_rows(self._out / "rows.jsonl"), checkpoint=0)
            if self._plan.independent:
                self._independent()
            else:
                self._sequential()
        finally:
            self._lm.weights.stand([])
        return self._summary()

    def _work(self) -> dict[str, int]:
        """Return how much of each kind of work is left; edits that stand in the book are taken off when it is opened."""
        done = {mark["unit"] for mark in self._marks}
        if self._plan.independent:
            left = sum(f"case {case.id}" not in done for case in self._cases)
            return {"edit": left if self._method else 0, "case": left}
        points = [point for point in self._points() if f"T={point}" not in done]
        asked = sum(len(self._asked(point)) for point in points)
        return {"edit": len(self._cases) if self._method else 0, "case": asked, "text": len(points)}

    def _say(self, done: int) -> None:
        if self._tell is not None:
            self._tell(done, len(self._cases), self._pace.left)

    # ---------------------------------------------------------------- the two modes

    def _points(self) -> list[int]:
        return sorted({c for c in self._plan.checkpoints if c < len(self._cases)} | {len(self._cases)})

    def _independent(self) -> None:
        for number, case in enumerate(self._cases, 1):
            self._say(number - 1)
            self._unit(f"case {case.id}", 1, partial(self._alone, case))
        self._say(len(self._cases))

    def _alone(self, case: Case) -> list[dict[str, Any]]:
        if self._method is None:
            return self._measure([case], 1, {}, [])
        edit = self._solve(self._method, [case], [])
        with self._lm.weights.trial([edit.deltas]):
            return self._measure([case], 1, {case.id: [edit.id]}, [edit])

    def _sequential(self) -> None:
        with Book.open(self._out / "book", base=self._lm.identity, name=self._lm.name) as book:
            edits = load(book, book.stand())
            self._lm.weights.stand([edit.deltas for edit in edits])
            self._pace.skip("edit", sum(len(edit.report.cases) for edit in edits))
            for target in self._points():
                self._write_up_to(target, book, edits)
                self._unit(f"T={target}", target, partial(self._standing, edits, target))
                if self._collapsed(target):
                    break
            self._general_ability(target)

    def _write_up_to(self, target: int, book: Book, edits: list[Edit]) -> None:
        done = sum(len(edit.report.cases) for edit in edits)
        self._say(done)
        while self._method is not None and done < target:
            edits.append(self._write(book, edits, self._cases[done : min(done + self._plan.batch, target)]))
            done += len(edits[-1].report.cases)
            self._say(done)

    def _standing(self, edits: Sequence[Edit], target: int) -> list[dict[str, Any]]:
        owners = {case: [edit.id] for edit in edits for case in edit.report.cases}
        return self._measure(self._asked(target), target, owners, edits)

    def _write(self, book: Book, edits: Sequence[Edit], cases: Sequence[Case]) -> Edit:
        assert self._method is not None
        edit = self._solve(self._method, cases, edits)
        self._lm.weights.stand([e.deltas for e in (*edits, edit)])
        book.append([(edit.meta(), edit.to_bytes())])
        return edit

    def _solve(self, method: Method, cases: Sequence[Case], past: Sequence[Edit]) -> Edit:
        begun, facts = perf_counter(), [fact for case in cases for fact in case.facts]
        edit, seconds = solve(self._lm, method, facts, past, self._plan.max_norm_ratio, self._base_name)
        self._spent.append((seconds["solve"], len(edit.facts), len(edit.to_bytes())))
        self._pace.took("edit", len(cases), perf_counter() - begun)
        self._unwritable += refused(edit)
        return replace(edit, report=edit.report.plus(cases=[case.id for case in cases]))

    # ---------------------------------------------------------------- measuring

    def _asked(self, edits: int) -> list[Case]:
        """Return the cases asked with `edits` edits standing: all, or retention's groups where that would be many."""
        standing = self._cases[:edits]
        if edits <= ALL:
            return list(standing)
        wanted = {case for group in self._groups(edits).values() for case in group}
        return [case for case in standing if case.id in wanted]

    def _groups(self, edits: int) -> dict[str, tuple[str, ...]]:
        return retention([case.id for case in self._cases[:edits]], seed=self._plan.seed)

    def _measure(
        self, cases: Sequence[Case], checkpoint: int, owners: Mapping[str, Sequence[str]], edits: Sequence[Edit]
    ) -> list[dict[str, Any]]:
        about = replace(self._about, checkpoint=checkpoint, edits=owners)
        base, begun = None if checkpoint == 0 else self._base, perf_counter()
        rows = score(self._lm, cases, base=base, about=about, options=self._options, scorer=self._scorer)
        rows = rows if self._judge is None else judged(rows, self._judge)
        rows += self._quantised(cases, about, {site for edit in edits for site in edit.matrices})
        self._pace.took("case", len(cases), perf_counter() - begun, wanted=checkpoint > 0)
        if self._plan.independent and checkpoint:
            return rows  # what one edit does to general text is too little to measure for each of them
        read = self._read() if checkpoint else self._before
        rows += text_rows(self._texts, read, before=self._before, about=about)
        matrices = edits[-1].matrices if edits else []
        return rows + (site_rows(self._lm, matrices, self._texts[:8], about=about) if matrices else [])

    def _read(self, wanted: bool = True) -> Read:
        begun = perf_counter()
        read = measure(self._scorer, self._texts)
        self._pace.took("text", 1, perf_counter() - begun, wanted)
        return read

    def _quantised(self, cases: Sequence[Case], about: About, sites: Iterable[Site]) -> list[dict[str, Any]]:
        """Return the rows of the edit prompts with the edited matrices in fewer bits; none where no matrix is edited."""
        rows: list[dict[str, Any]] = []
        sites, options = sorted(sites, key=str), replace(self._options, probes=("edit",), chat=False)
        for form in [name for name in QUANTISED if name in self._plan.probes and sites]:
            with quantised(self._lm, sites, form):
                found = score(self._lm, cases, base=self._base, about=about, options=options, scorer=self._scorer)
            rows += [{**row, "probe": form} for row in found]
        return rows

    def _unedited(self) -> list[dict[str, Any]]:
        key = (
            tuple(self._cases),
            self._plan.generation,
            self._plan.seed,
            self._plan.text,
            self._plan.judge,
            self._plan.probes,
        )
        kept = self._once("rows", key, lambda: self._measure(self._cases, 0, {}, []))
        return [{**row, **self._about.fields(row["case"])} for row in kept]

    def _once(self, what: str, key: tuple[Any, ...], work: Callable[[], _Found]) -> _Found:
        """Return what was measured of the unedited model: the next method's run need not ask it again, if it asks the same."""
        name = ("benchmark of the base", what)
        if name not in self._lm.memory or self._lm.memory[name][0] != key:
            self._lm.memory[name] = key, work()
        found: _Found = self._lm.memory[name][1]
        return found

    def _general_ability(self, checkpoint: int) -> None:
        harness, about = self._harness, replace(self._about, checkpoint=checkpoint)
        if harness is None:
            return

        def rows() -> list[dict[str, Any]]:
            if checkpoint:
                return harness.rows(self._scorer, about)
            kept = self._once("harness", harness.names, lambda: harness.rows(self._scorer, about))
            return [{**row, **about.fields(row["case"])} for row in kept]

        self._unit(f"harness T={checkpoint}", checkpoint, rows)

    def _unit(self, name: str, checkpoint: int, work: Callable[[], list[dict[str, Any]]]) -> None:
        """Do a unit of work unless it is done; its rows are on the disk before its mark is."""
        if any(mark["unit"] == name for mark in self._marks):
            return
        rows = work()
        append(self._out / "rows.jsonl", (dump_row(row) for row in rows))
        mark = {"unit": name, "checkpoint": checkpoint, "bytes": (self._out / "rows.jsonl").stat().st_size}
        mark |= {"spent": self._spent, "peak_bytes": peak_bytes(self._lm), "unwritable": self._unwritable}
        self._spent, self._unwritable = [], 0
        append(self._out / "marks.jsonl", [json.dumps(mark)])
        self._marks.append(mark)

    def _collapsed(self, checkpoint: int) -> bool:
        limit = self._plan.stop_at_perplexity
        if limit is None:
            return False
        found = summarize(at(read_rows(self._out / "rows.jsonl"), checkpoint=checkpoint)).get("perplexity")
        if found is None or found.mean <= limit:
            return False
        self._stopped = f"perplexity {found.mean:.4g} at {checkpoint} edits"
        return True

    # ---------------------------------------------------------------- the numbers

    def _summary(self) -> dict[str, Any]:
        rows = read_rows(self._out / "rows.jsonl")
        points = sorted({mark["checkpoint"] for mark in self._marks})
        summary = {
            **{key: self._identity[key] for key in ("method", "config", "model", "cases", "seed", "mode", "versions")},
            "checkpoints": [self._point(point, at(rows, checkpoint=point)) for point in points],
            "refused": len(self._refused),
            "unwritable": sum(mark.get("unwritable", 0) for mark in self._marks),
            "stopped": self._stopped,
        }
        keep(self._out / "summary.json", summary)
        return summary

    def _point(self, checkpoint: int, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        kept = checkpoint and not self._plan.independent and self._method is not None
        found = summarize(rows, groups=self._groups(checkpoint) if kept else None)
        metrics = {name: estimate.to_dict() for name, estimate in found.items()}
        taken = costs([mark for mark in self._marks if mark["checkpoint"] <= checkpoint])
        return {"edits": checkpoint, "metrics": metrics, **taken}
