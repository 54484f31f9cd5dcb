"""`errata tune`: once a model, find the settings that suit it, and keep them beside its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from errata.cli import common as opt
from errata.cli.common import Shown
from errata.errors import BadConfig, BadFile


def tune(
    model: Annotated[str, typer.Argument(help="'primer', 'smollm2', a directory, a GGUF file, or a hub id.")],
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Which; repeatable. rome and memit unless given.")
    ] = None,
    facts: Annotated[Path | None, typer.Option("--facts", help="Facts with probes, in place of public ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many facts of the file.")] = 100,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the profile to a TOML file, to share it.")
    ] = None,
    page: Annotated[Path | None, typer.Option("--page", help="Also write a page, HTML.")] = None,
    use: Annotated[Path | None, typer.Option("--use", help="Take a profile that somebody made; try nothing.")] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Take this model's profile back; try nothing.")] = False,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    dtype: opt.Dtype = None,
    as_json: opt.Json = False,
) -> Shown:
    """Find the settings of methods that suit a model, by writing facts it knows; its defaults from then on."""
    given = _given(use, forget, out, page)
    from errata.model.loading import load

    lm = load(model, device=device, dtype=dtype)
    if given is not None or forget:
        return Shown(_taken(lm, given) if given is not None else _forgotten(lm))
    found, files = _tuned(lm, method or ["rome", "memit"], facts, limit, seed), (out, page)
    return Shown({**found.to_dict(), "files": _files(lm, found, *files)}, as_json, notes=lm.notes)


def _given(use: Path | None, forget: bool, *files: Path | None) -> Any:
    """Return the profile to take, if one is named; refuses what would be refused late."""
    from errata.stats import profile

    if use is not None and forget:
        raise BadConfig("--use takes a profile and --forget takes it back: give one of them.")
    for path in files:
        if path is not None and not path.absolute().parent.is_dir():
            raise BadFile(f"{path} cannot be written: there is no directory {path.parent}.")
    return profile.read(use) if use is not None else None


def _forgotten(lm: Any) -> str:
    from errata.stats import profile

    return f"{lm.name} has no profile any more" if profile.forget(lm) else f"{lm.name} had no profile"


def _tuned(lm: Any, names: list[str], facts: Path | None, limit: int, seed: int) -> Any:
    from errata.data.facts import read_facts
    from errata.editing.tune import tune as find

    own = read_facts(facts)[:limit] if facts is not None else ()
    return find(lm, names, own, seed=seed, tell=opt.TELL.get())


def _files(lm: Any, found: Any, out: Path | None, page: Path | None) -> list[str]:
    from errata.report import tuned
    from errata.stats import profile
    from errata.stats.store import put

    kept = profile.keep(
        lm, found.profile
    )  # first: what took minutes is not lost because another file cannot be written
    if out is not None:
        put(out, found.profile.toml().encode())
    if page is not None:
        tuned.write(found.to_dict(), page)
    return [str(path) for path in (kept, out, page) if path is not None]


def _taken(lm: Any, given: Any) -> str:
    """Make a profile the model's, once every setting in it was looked at; return what to say."""
    from errata import methods
    from errata.stats import profile

    if given.fingerprint != lm.fingerprint:
        raise BadConfig(f"this profile is of another model ({given.model}, {given.fingerprint[:8]}), not of {lm.name}.")
    for name, settings in given.settings.items():
        methods.make(name, dict(settings)).resolve(lm)
    return f"{lm.name} has the settings of {given.model}'s profile from now on, kept in {profile.keep(lm, given)}"
