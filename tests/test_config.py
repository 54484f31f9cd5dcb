"""Settings: the same object from a dictionary, TOML and flags, and a clear error for anything else."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.config import describe, from_dict, from_flags, from_toml, parse_flags, to_dict, to_toml
from errata.errors import BadConfig


@dataclass(frozen=True, slots=True)
class Knobs:
    """One field of every kind that is supported."""

    family: ClassVar[str] = "not a setting"
    steps: int = 25
    lr: float = field(default=0.5, metadata={"help": "step size"})
    project: bool = True
    name: str = "rome"
    variant: Literal["plain", "masked"] = "plain"
    bits: Literal[8, 16] = 16
    layers: tuple[int, ...] | Literal["auto"] = "auto"
    tags: tuple[str, ...] = ()
    limit: int | None = None
    clamp: float | None = 4.0
    start: int | Literal["auto"] | None = "auto"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must not be negative")


@dataclass(frozen=True)
class Needed:
    steps: int
    limit: int | None


@dataclass(frozen=True)
class Wide:
    name: str | None = ""
    some: tuple[str, ...] | Literal["all"] = ()
    size: str | float | int = ""


WORDS = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)
FLOATS = st.floats(allow_nan=False)
KNOBS = st.builds(
    Knobs,
    steps=st.integers(min_value=0, max_value=10**30),
    lr=FLOATS,
    project=st.booleans(),
    name=WORDS,
    variant=st.sampled_from(["plain", "masked"]),
    bits=st.sampled_from([8, 16]),
    layers=st.just("auto") | st.lists(st.integers(), max_size=4).map(tuple),
    tags=st.lists(WORDS, max_size=3).map(tuple),
    limit=st.none() | st.integers(),
    clamp=st.none() | FLOATS,
    start=st.none() | st.just("auto") | st.integers(),
)


@settings(deadline=None)
@given(KNOBS)
def test_settings_survive_dict_json_and_toml(knobs: Knobs) -> None:
    for again in (
        from_dict(Knobs, to_dict(knobs)),
        from_dict(Knobs, json.loads(json.dumps(to_dict(knobs)))),
        from_toml(Knobs, to_toml(knobs)),
    ):
        assert again == knobs
        assert [type(v) for v in to_dict(again).values()] == [type(v) for v in to_dict(knobs).values()]


@settings(deadline=None)
@given(KNOBS.filter(lambda k: k.name == k.name.strip()))
def test_settings_survive_flags(knobs: Knobs) -> None:
    knobs = dataclasses.replace(knobs, tags=("a", "b c"))
    flags = []
    for name, value in to_dict(knobs).items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        flags.append(f"{name}={text}")
    assert from_flags(Knobs, flags) == knobs


def test_flags_as_people_write_them() -> None:
    knobs = from_flags(
        Knobs, ["lr=1e-3", " layers = 3, 4,5", "project=No", "name=a=b", "limit=none", "tags=", "bits=8"]
    )
    assert knobs == Knobs(lr=1e-3, layers=(3, 4, 5), project=False, name="a=b", bits=8)
    assert from_flags(Knobs, []) == Knobs()
    assert from_flags(Knobs, ["clamp=none", "start=3", "layers=7"]) == Knobs(clamp=None, start=3, layers=(7,))
    assert parse_flags(Knobs, ["lr=1", "limit=7"]) == {"lr": 1.0, "limit": 7}
    assert type(parse_flags(Knobs, ["lr=1"])["lr"]) is float


def test_flags_are_read_as_the_narrowest_kind() -> None:
    read = from_flags(Wide, ["name=None", "some=all", "size=3"])
    assert (read, type(read.size)) == (Wide(None, "all", 3), int)
    assert from_flags(Wide, ["name=x", "some=a", "size=0.5"]) == Wide("x", ("a",), 0.5)
    assert from_flags(Wide, ["size=large"]).size == "large"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("stpes=3", "no setting 'stpes'. Did you mean steps? Known: steps, lr, project"),
        ("family=x", "no setting 'family'"),
        ("steps", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("steps=3.0", "cannot read steps=3.0; it takes a whole number"),
        ("steps=", "a whole number"),
        ("steps=none", "a whole number"),
        ("lr=fast", "a number"),
        ("lr=nan", "a number"),
        ("project=maybe", "true or false"),
        ("variant=maskd", "it takes plain | masked. Did you mean masked?"),
        ("bits=32", "8 | 16"),
        ("layers=1,x", "whole numbers with commas between | auto"),
        ("layers=atuo", "Did you mean auto?"),
        ("layers=1,,2", "whole numbers"),
        ("start=__import__('os')", "a whole number | auto | none"),
        ("steps=-1", "steps must not be negative"),
        ("steps=" + "9" * 5000, "a whole number"),
    ],
)
def test_bad_flags_say_what_is_taken(flag: str, words: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(words)):
        from_flags(Knobs, [flag])


def test_a_flag_given_twice() -> None:
    with pytest.raises(BadConfig, match="steps is set twice"):
        from_flags(Knobs, ["steps=1", "steps=2"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"stpes": 3}, "Did you mean steps?"),
        ({3: 3}, "no setting 3"),
        ({"steps": True}, "steps = True does not fit"),
        ({"steps": 3.0}, "a whole number"),
        ({"steps": "3"}, "a whole number"),
        ({"steps": None}, "a whole number"),
        ({"lr": "1"}, "a number"),
        ({"lr": float("nan")}, "a number"),
        ({"lr": 2**60}, "a number"),
        ({"project": 1}, "true or false"),
        ({"bits": 8.0}, "8 | 16"),
        ({"layers": 3}, "whole numbers"),
        ({"layers": [3, "4"]}, "whole numbers"),
        ({"layers": "3,4"}, "whole numbers"),
        ({"tags": "ab"}, "texts with commas"),
    ],
)
def test_bad_values_in_dictionaries(row: dict[Any, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(words)):
        from_dict(Knobs, row)


def test_whole_numbers_do_for_floats() -> None:
    lr = from_dict(Knobs, {"lr": 1}).lr
    assert (lr, type(lr)) == (1.0, float)


def test_fields_without_default() -> None:
    with pytest.raises(BadConfig, match="Needed needs limit"):
        from_dict(Needed, {"steps": 1})
    assert from_toml(Needed, to_toml(Needed(1, None))) == Needed(1, None)


def test_toml_is_readable() -> None:
    text = to_toml(Knobs(layers=(3, 4), tags=('a"b',), clamp=None))
    assert "layers = [3, 4]\n" in text
    assert 'tags = ["a\\"b"]\n' in text
    assert 'clamp = "none"\n' in text  # left out, it would read back as 4.0
    assert "limit" not in text


def test_toml_that_cannot_be_read_or_written() -> None:
    @dataclass(frozen=True)
    class Open:
        name: str | None = "x"

    with pytest.raises(BadConfig, match="not valid TOML"):
        from_toml(Knobs, "lr = = 3")
    for endless in (f"lr = {'9' * 5000}", f"layers = {'[' * 5000}"):
        with pytest.raises(BadConfig, match="not valid TOML"):
            from_toml(Knobs, endless)
    with pytest.raises(BadConfig, match="Did you mean steps"):
        from_toml(Knobs, "stps = 3")
    with pytest.raises(BadConfig, match="TOML cannot say that name is none"):
        to_toml(Open(name=None))


def test_describe() -> None:
    rows = {name: rest for name, *rest in describe(Knobs)}
    assert rows["lr"] == ["a number", 0.5, "step size"]
    assert rows["layers"] == ["whole numbers with commas between | auto", "auto", ""]
    assert rows["limit"] == ["a whole number | none", None, ""]
    assert list(rows) == [f.name for f in dataclasses.fields(Knobs)]
    assert describe(Needed)[0][2] is dataclasses.MISSING
