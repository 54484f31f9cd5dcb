"""What each kind of job does. Every step with the model is a call of its own, so that requests for text run in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final, TypeVar

from errata import methods, wire
from errata.book import states
from errata.book.book import Book, Note, Record
from errata.config import from_dict
from errata.edit import Label
from errata.editing import check as checking
from errata.editing import letting_in
from errata.editing import locate as locating
from errata.editing.editor import Editor
from errata.editing.gates import Gates, in_force, stricter
from errata.editing.standing import load
from errata.errors import BadConfig
from errata.fact import Fact, question
from errata.methods.base import Method
from errata.serve import trying
from errata.serve.jobs import Job, Jobs, Work
from errata.serve.owner import Owner
from errata.serve.service import check_seen
from errata.stats.corpus import AUTO, BUILT_IN

CHANGES: Final = frozenset({"write", "drop", "restore", "tag", "untag", "checkout", "check"})
MOST: Final = 10_000  # of any whole number among a client's settings, so that no job holds the model for days
ROOMIER: Final[Mapping[str, int]] = {"tokens": 1_000_000, "seed": 2**63 - 1, "weight": 10**9}
MARK: Final = "job-"  # before a job's id, in the tag of what it wrote
_T = TypeVar("_T")


def settled(method: str, settings: Mapping[str, Any]) -> Method:
    """Return a method with settings that a client chose.

    Raises:
        BadConfig: they are none; a corpus, which would be a file here; more steps than a server takes for a client.
    """
    check_bounded(settings)
    if settings.get("corpus", AUTO) not in (AUTO, *BUILT_IN):
        raise BadConfig("corpus names a file of the server, which clients cannot choose; leave it out.")
    return methods.make(method, dict(settings))


def check_bounded(settings: Mapping[str, Any]) -> None:
    """Raise BadConfig for a whole number, of steps or samples, that would hold the model for days."""
    for name, value in settings.items():
        if isinstance(value, int) and value > (most := ROOMIER.get(name, MOST)):
            raise BadConfig(f"{name}={value} is more than a server takes from a client: at most {most:,}.")


def gates_of(given: Mapping[str, Any] | None) -> Gates | None:
    """Return the gates a client has asked for; raises BadConfig, also for files."""
    if given is None:
        return None
    if given.get("sentinels") or given.get("text", AUTO) not in (AUTO, *BUILT_IN):
        raise BadConfig("sentinels and text name files of the server, which clients cannot choose; leave them out.")
    return from_dict(Gates, given)


def work(owner: Owner) -> dict[str, Work]:
    """Return what does each kind of job with the owner's model."""

    def alone(do: Callable[[Editor, Job, Jobs], Any]) -> Work:
        return lambda job, jobs: owner.call(lambda editor: do(editor, job, jobs)).result()

    return {
        "write": lambda job, jobs: _write(owner, job, jobs),
        **{kind: alone(_once(do)) for kind, do in _CHANGES.items()},
        "check": alone(_check),
        "locate": alone(_locate),
        "try": alone(_try),
        "subject": alone(_subject),
    }


def _write(owner: Owner, job: Job, jobs: Jobs) -> Any:
    """Write facts in one transaction, or (not `atomic`) one after the other."""
    facts = [Fact.from_dict(row) for row in job.request["facts"]]
    how = settled(job.request["method"], job.request["settings"])
    atomic = job.request["atomic"] or how.batched
    label = _label(job)
    gates = gates_of(job.request.get("gates"))

    def some(editor: Editor, part: list[Fact], done: int) -> None:
        with editor.book.lock():
            if not done:
                check_seen(editor.book, None if job.again else job.seen)
            if set(map(question, part)) <= {question(f) for r in _written(editor.book, job) for f in r.facts}:
                return  # before the server was killed
            told = (lambda n, _: jobs.tell(job, done + n, len(facts))) if len(part) > 1 and not how.batched else None
            lights = stricter(in_force(editor.book), gates)  # a client may ask more than the book does, not less
            editor.write_all(part, how, label=label, gates=lights, progress=told)

    done = 0
    for part in [facts] if atomic else [[fact] for fact in facts]:
        jobs.tell(job, done, len(facts))
        owner.call(lambda editor, part=part, done=done: some(editor, part, done)).result()  # type: ignore[misc]
        done += len(part)
    jobs.tell(job, done, len(facts))
    return owner.call(lambda editor: _edits(editor.book, job)).result()


def _written(book: Book, job: Job) -> list[Record]:
    return book.records(tag=f"{MARK}{job.id}")


def _edits(book: Book, job: Job) -> dict[str, Any]:
    records = _written(book, job)
    rows = [wire.edit(edit, record.bytes) for edit, record in zip(load(book, records), records, strict=True)]
    notes = [note for record in records for note in (record.meta.get("report") or {}).get("notes", ())]
    gates = next(((record.meta.get("report") or {}).get("gates") for record in reversed(records)), None)
    return {"edits": rows, "notes": notes, "gates": gates or [], "version": book.version()}


def _label(job: Job) -> Label:
    given = job.request["label"]
    words = {f.name: given[f.name] for f in fields(Label) if given.get(f.name)}
    return Label(**{**words, "author": given.get("author") or job.who, "tags": (*given["tags"], f"{MARK}{job.id}")})


def _once(do: Callable[[Editor, Job, Note], list[Record]]) -> Callable[[Editor, Job, Jobs], Any]:
    """Make a change once: after a kill, the book's history says whether it was made."""

    def changed(editor: Editor, job: Job, _: Jobs) -> dict[str, Any]:
        book, asked = editor.book, job.request
        note = Note(asked.get("author") or job.who, asked.get("reason", ""), {"job": job.id})
        with book.lock():
            events = [event for event in book.history() if event.data.get("job") == job.id] if job.again else []
            if events:
                records = [book.get(event.edit_id) for event in events if event.edit_id]
            else:
                check_seen(book, None if job.again else job.seen)
                records = do(editor, job, note)
        return {"edits": [wire.record(record) for record in records], "version": book.version()}

    return changed


def _drop(editor: Editor, job: Job, note: Note) -> list[Record]:
    return editor.book.change(drop=job.request["ids"], note=note)


def _restore(editor: Editor, job: Job, note: Note) -> list[Record]:
    return letting_in.restore(editor, job.request["ids"], note)


def _tag(editor: Editor, job: Job, note: Note) -> list[Record]:
    states.tag(editor.book, job.request["name"], note, move=job.request["move"])
    return []


def _untag(editor: Editor, job: Job, note: Note) -> list[Record]:
    states.untag(editor.book, job.request["name"], note)
    return []


def _checkout(editor: Editor, job: Job, note: Note) -> list[Record]:
    dropped, restored = letting_in.checkout(editor, job.request["state"], note)  # once more changes nothing
    return [*dropped, *restored]


_CHANGES: Final = {"drop": _drop, "restore": _restore, "tag": _tag, "untag": _untag, "checkout": _checkout}


def _check(editor: Editor, job: Job, _: Jobs) -> dict[str, Any]:
    return wire.verdicts(checking.check(editor, drop_expired=job.request["drop_expired"]))


def _locate(editor: Editor, job: Job, _: Jobs) -> dict[str, Any]:
    asked = job.request
    found = locating.locate(
        editor, asked["prompt"], asked["subject"], asked["target"], asked["method"], **asked["settings"]
    )
    return found.to_dict() | {"layer": found.layer}


def _try(editor: Editor, job: Job, _: Jobs) -> dict[str, Any]:
    asked = job.request
    facts = [Fact.from_dict(row) for row in asked["facts"]]
    how = settled(asked["method"], asked["settings"])
    return trying.tried(editor, facts, how, gates_of(asked.get("gates")))


def _subject(editor: Editor, job: Job, _: Jobs) -> dict[str, Any]:
    return {"subject": trying.subject(editor, job.request["prompt"])}
