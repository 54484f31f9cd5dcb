"""The command line: each command is one call into the library, and this is the only file that prints.

Exit codes: 0 done, 1 failed, 2 what was given cannot be used, 130 interrupted. An error is one sentence on stderr;
`--debug`, anywhere on the line, adds the traceback.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

import errata
from errata import _options as opt
from errata import _rows
from errata._shown import Shown
from errata.errors import ErrataError, InputError

if TYPE_CHECKING:
    from errata.edit import Edit
    from errata.editor import Editor
    from errata.fact import Fact

# Where the commands are. Only the room of the one asked for is opened, and only that one is built.
ROOMS: Final[Mapping[str, str]] = {
    "_bench": "bench report data",
    "_book": "log show drop restore diff tag checkout verify keygen",
    "_care": "merge conflicts check migrate compact",
    "_reach": "radius",
    "_ship": "ci export push",
    "_where": "locate",
    "cli": "ask edit save methods stats demo",
}
app = typer.Typer(
    name="errata", add_completion=False, rich_markup_mode=None,
    help="Correct what a language model knows: write facts, keep a log of them, take them back exactly.",
)  # fmt: skip


def commands(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line with the one command that a line of words asks for; with all, if it asks for none of them."""
    asked = next((word for word in words if not word.startswith("-")), "")
    rooms = [room for room, names in ROOMS.items() if asked in names.split()]
    known = [command for room in rooms or ROOMS for command in import_module(f"errata.{room}").app.registered_commands]
    found = copy(app)
    found.registered_commands = [one for one in known if not rooms or getattr(one.callback, "__name__", "") == asked]
    return found


def _version(wanted: bool) -> None:
    if wanted:
        print(f"errata {errata.__version__}")
        raise typer.Exit()


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """`main` has taken --debug out before this sees the line, so that it may stand anywhere."""


@app.command()
def ask(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text for the model to go on from.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Longest answer, in tokens.")] = 32,
    top: Annotated[int, typer.Option("--top", min=0, help="How many likely next tokens to show.")] = 5,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> None:
    """Ask the model, with the book's edits standing, and print what it says."""
    with _open(model, book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        answer = editor.ask(prompt, max_new_tokens=max_new_tokens, top=top)
    _out(_rows.answer(answer), "answer", as_json)


@app.command()
def edit(
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text that ends where the answer begins.")] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="What it is about, as the prompt has it.")] = None,
    target: Annotated[str | None, typer.Option("--target", help="The new answer.")] = None,
    facts: Annotated[Path | None, typer.Option("--facts", help="Or all facts of a JSONL or CSV file.")] = None,
    method: opt.Method = "rome",
    settings: opt.Settings = None,
    seed: opt.Seed = 0,
    author: opt.Author = "",
    reason: opt.Reason = "",
    source: opt.Source = "",
    tags: opt.Tags = None,
    tenant: opt.Tenant = "",
    valid_from: opt.ValidFrom = "",
    valid_until: opt.ValidUntil = "",
    gate: opt.Gate = None,
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> None:  # size: an option a line
    """Write a fact, or all facts of a file; if one cannot be written, none is."""
    from errata.config import parse_flags
    from errata.label import Label

    label = Label(
        author=author, reason=reason, source=source, tags=tuple(tags or ()), tenant=tenant, valid_from=valid_from,
        valid_until=valid_until,
    )  # fmt: skip
    options = {"seed": seed} | parse_flags(errata.methods.get(method), settings or ()) | label.to_dict()
    if gate is not None:
        options["gates"] = import_module("errata.gates").read(gate)
    wanted = _facts(facts, prompt=prompt, subject=subject, target=target)
    with _open(model, book, corpus=corpus, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        edits = editor.write_all(wanted, method, **options)
        rows = [_rows.edit(written, editor.book.get(written.id).bytes) for written in edits]
    _notes(edits)
    _out(rows, "edits", as_json, each=True)


@app.command()
def save(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the checkpoint.")],
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
) -> None:
    """Save the model with its standing edits as a checkpoint that transformers loads."""
    with _open(model, book, device=device, dtype=dtype, trust_remote_code=trust_remote_code) as editor:
        editor.save(directory)
    print(f"saved to {directory}")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Show this one and its settings.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List the methods, or one of them with its settings for --set."""
    known = errata.methods.names() if name is None else [name]
    rows = [_rows.method(one, errata.methods.get(one)) for one in known]
    _out(rows if name is None else rows[0], "methods" if name is None else "method", as_json)


@app.command()
def stats(
    method: opt.Method = "memit",
    settings: opt.Settings = None,
    part: Annotated[str, typer.Option("--part", help="Read only the second of four parts: 2/4; all/4 adds up.")] = "",
    model: opt.Model = "primer",
    book: opt.BookPath = opt.HERE,
    corpus: opt.Corpus = None,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    trust_remote_code: opt.Remote = False,
    as_json: opt.Json = False,
) -> None:
    """Compute the statistics of the base model that a closed-form method needs, and say how much was read for them.

    Once for each model and corpus; if interrupted, it goes on from there next time. Processes can share the work: each
    reads a --part of the same number of tokens (--set tokens=N), and once their files lie in one directory one adds up.
    """
    from errata.config import parse_flags

    options = parse_flags(errata.methods.get(method), settings or [])
    loading = {"corpus": corpus, "device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
    with _open(model, book, **loading) as editor, import_module("errata._show").progress("reading") as step:
        found = editor.stats(method, step, part, **options)
    _out(found, "_stats_show.statistics", as_json)


@app.command()
def demo(as_json: opt.Json = False) -> None:
    """Tell the whole story on the primer.

    Asks, writes three facts with three methods, drops one and asks again, in a book that is thrown away.
    """
    for scene in import_module("errata.demo").tell():
        _out(scene.to_dict(), "scene", as_json, each=True)


def _open(model: str, book: Path, **loading: Any) -> Editor:
    return errata.open(model, book=book, **loading)


def _facts(path: Path | None, **one: str | None) -> list[Fact]:
    """Return the facts of the file, or the one fact the options spell out."""
    from errata.data.facts import read_facts
    from errata.fact import Fact

    missing = [f"--{name}" for name, value in one.items() if value is None]
    if path is not None and len(missing) < len(one):
        raise InputError("--facts names a file of facts and --prompt, --subject, --target spell out one: use either.")
    if path is not None:
        return read_facts(path)
    if missing:
        raise InputError(f"{' and '.join(missing)} missing: give --prompt, --subject and --target, or --facts FILE.")
    return [Fact(prompt=one["prompt"] or "", subject=one["subject"] or "", target=one["target"] or "")]


def _notes(edits: Iterable[Edit]) -> None:
    """Say on stderr what the user should know although all went well; stdout keeps to its shape."""
    for written in edits:
        for note in dict[str, Any](written.report).get("notes", ()):
            _say(f"note: {note}")


def _out(value: Any, view: str, as_json: bool, *, each: bool = False) -> None:
    """Print a value as JSON (a list with `each`: one object per line) or as its view in `_show`."""
    if as_json:
        lines = value if each and isinstance(value, list) else [value]
        for line in lines:
            print(json.dumps(line, ensure_ascii=False, indent=None if each else 2))
        return
    module, _, name = view.rpartition(".")  # rich is not imported where nothing is drawn
    drawn = getattr(import_module(f"errata.{module or '_show'}"), name)(value)
    import_module("errata._show").console().print(drawn)


def _say(message: str) -> None:
    print(f"errata: {' '.join(message.split())}", file=sys.stderr)


def _hush() -> None:
    """Keep other libraries' warnings and progress bars off stderr, which belongs to our sentences."""
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update({name: value for name, value in quiet.items() if name not in os.environ})
    warnings.simplefilter("ignore")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show "→" gets "?", not an error
            stream.reconfigure(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the process's own, and return its exit code; an error becomes a sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    gc.freeze()  # what was imported so far stays: the collector need not look at it while the rest is
    if not debug:
        _hush()
    try:
        return _run([word for word in words if word != "--debug"] or ["--help"])
    except BaseException as error:  # the last resort: whatever it is, the user gets a sentence and an exit code
        if debug:
            import_module("traceback").print_exc()
        message, code = _explain(error)
        _say(message)
        return code
    finally:
        gc.unfreeze()


def _run(words: list[str]) -> int:
    try:
        result = typer.main.get_command(commands(words)).main(words, prog_name="errata", standalone_mode=False)
        if isinstance(result, Shown):
            _out(result.value, result.view, result.as_json)
            result = result.code
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit):  # the reader has gone, as in `errata log | head`, and typer may know already
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if result == 130:  # what typer makes of Ctrl-C
        raise KeyboardInterrupt
    return int(result or 0)


def _explain(error: BaseException) -> tuple[str, int]:
    """Return the sentence and the exit code for an error."""
    if isinstance(error, ErrataError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; every edit that was reported stands, and nothing is half written.", 130
    if isinstance(error, typer.TyperException):
        where = getattr(getattr(error, "ctx", None), "command_path", "errata")
        return f"{error.format_message()} See {where} --help.", error.exit_code
    kind = type(error).__name__
    return f"{kind}: {error or 'no more is known'}. This was not foreseen; --debug shows where it happened.", 1
