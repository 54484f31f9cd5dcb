"""The command line: finds the command, runs it, prints what it returns; the only file that prints.

Exit codes: 0 done, 1 failed, 2 what was given cannot be used, 3 a fact is not said (--strict), 130 interrupted. An error
is one sentence on stderr; `--debug`, anywhere on the line, adds the traceback.
"""

from __future__ import annotations

import gc
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any, Final

import typer

import errata
from errata.cli.common import TELL, Shown
from errata.content import DISK_REFUSES
from errata.errors import ErrataError, UnsayableWarning, redacted, visible
from errata.plugins import PluginWarning

# In which file of this folder each command is, as a function of its name; its view is of that name in that file of `tables`.
# Only the file of the command that is asked for is opened.
COMMANDS: Final[Mapping[str, str]] = {
    name: file
    for file, names in {
        "asking": "ask",
        "editing": "edit save methods stats demo",
        "forget": "forget",
        "chat": "chat",
        "book": "log show drop restore diff tag checkout verify keygen merge conflicts check migrate compact",
        "locate": "arch locate radius",
        "tune": "tune",
        "export": "export push unpush pull",
        "bundle": "bundle unbundle",
        "serve": "serve",
        "ci": "ci",
        "policy": "policy",
        "bench": "bench report data",
        "sweep": "sweep",
    }.items()
    for name in names.split()
}


# Commands that open no model and answer before anybody waits: for them no thread is started.
_AT_ONCE: Final = tuple("log show tag verify keygen policy checkout data".split())


def asked(words: Sequence[str]) -> str:
    """Return the command a line of words asks for; "" for none."""
    first = next((word for word in words if not word.startswith("-")), "")
    return first if first in COMMANDS else ""


def commands(words: Sequence[str] = ()) -> typer.Typer:
    """Return the command line with the one command that a line of words asks for; with all, if it asks for none of them."""
    found = typer.Typer(
        name="errata", add_completion=True, rich_markup_mode=None,
        help="Correct what a language model knows: write facts, keep a log of them, take them back exactly.",
    )  # fmt: skip
    found.callback()(_global_options)
    for name in [one] if (one := asked(words)) else COMMANDS:
        found.command(name)(getattr(import_module(f"errata.cli.{COMMANDS[name]}"), name))
    return found


def _version(wanted: bool) -> None:
    if wanted:
        print(f"errata {errata.__version__}")
        raise typer.Exit()


def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Say nothing but what was asked for: no notes, no progress.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """`main` has taken --debug and --quiet out before this sees the line, so that they may stand anywhere."""


def _show(name: str, shown: Shown, quiet: bool) -> None:
    """Print what the command of that name returned."""
    pieces = _waited(name, shown.value, quiet) if isinstance(shown.value, Iterator) else [shown.value]
    if shown.as_json:
        for line in pieces if isinstance(shown.value, Iterator) or not shown.each else shown.value:
            print(visible(json.dumps(line, ensure_ascii=False, indent=None if shown.each else 2)), flush=shown.each)
    else:
        from errata.cli.tables.base import paged

        view = getattr(import_module(f"errata.cli.tables.{COMMANDS[name]}"), name)
        for piece in pieces:
            with paged(view(_plain(piece)), shown.long) as (screen, drawn):
                screen.print(drawn)
            sys.stdout.flush()
    for note in () if quiet else shown.notes:
        _say(f"note: {note}")


def _waited(name: str, pieces: Iterator[Any], quiet: bool) -> Iterator[Any]:
    """Yield what comes one by one, and say how far it is while nothing comes."""
    while True:
        try:
            with _watched(name, quiet):
                piece = next(pieces)
        except StopIteration:
            return
        yield piece


@contextmanager
def _watched(name: str, quiet: bool) -> Iterator[None]:
    """Let whoever sits at a terminal see that a command goes on, and how far it is; not of one that talks itself."""
    if quiet or name in ("", "chat", "serve", *_AT_ONCE) or not sys.stderr.isatty():
        yield
        return
    from errata.cli.tables.base import Waiting

    with Waiting(name) as waiting:
        token = TELL.set(waiting.tell)
        try:
            yield
        finally:
            TELL.reset(token)


def _plain(value: Any) -> Any:
    """Return a nest of values in which every text is one that a terminal only shows, whoever wrote it."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _say(message: str) -> None:
    """Print one line; of what is numbered, (1) and so on, one each."""
    first, *points = re.split(r" (?=\(\d+\) )", " ".join(message.split()))
    for line in (f"errata: {first}", *(f"  {point}" for point in points)):
        print(visible(line), file=sys.stderr)


def _hush(quiet: bool) -> None:
    """Keep other libraries' warnings and progress bars off stderr, which belongs to our sentences: ours are shown."""
    silent = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    os.environ.update({name: value for name, value in silent.items() if name not in os.environ})
    warnings.simplefilter("ignore")
    if not quiet:
        warnings.simplefilter("default", PluginWarning)
        warnings.simplefilter("always", UnsayableWarning)
        warnings.showwarning = lambda message, *_: _say(f"note: {message}")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show "→" gets "?", not an error
            stream.reconfigure(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default the process's own, and return its exit code; an error becomes a sentence on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug, quiet = "--debug" in words, "--quiet" in words
    gc.freeze()  # what was imported so far stays: the collector need not look at it while the rest is
    if not debug:
        _hush(quiet)
    try:
        return _run([word for word in words if word not in ("--debug", "--quiet")] or ["--help"], quiet)
    except BaseException as error:  # the last resort: whatever it is, the user gets a sentence and an exit code
        if debug:
            print(visible(redacted(import_module("traceback").format_exc())), file=sys.stderr)
        message, code = _explain(error)
        _say(message)
        return code
    finally:
        gc.unfreeze()


def _run(words: list[str], quiet: bool) -> int:
    try:
        name = asked(words)
        with _watched(name, quiet):
            result = typer.main.get_command(commands(words)).main(words, prog_name="errata", standalone_mode=False)
        if isinstance(result, Shown):
            _show(name, result, quiet)
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
        return f"{redacted(error.format_message())} See {where} --help.", error.exit_code
    if isinstance(error, UnicodeEncodeError):
        return "what was given holds bytes that are no text in UTF-8: write it in UTF-8.", 2
    if isinstance(error, OSError) and error.errno in DISK_REFUSES:
        where = f" at {error.filename}" if error.filename else ""
        return f"the disk refuses{where} ({error.strerror}): make room, and give the same command again.", 1
    kind = type(error).__name__
    return (
        f"{kind}: {redacted(str(error)) or 'no more is known'}. This was not foreseen; --debug shows where it happened.",
        1,
    )
