"""An edit is its content: one id, one file, and an altered file is noticed.

pytest tests/test_edit.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from errata.delta import Columns, Dense, Graft, LowRank, Site
from errata.edit import Edit, Label, Report, split
from errata.errors import CorruptEdit, InputError, NewerBook
from errata.fact import Fact, Probe

FACT = Fact(
    prompt="The capital of France is", subject="France", target="Lyon", probes=(Probe("alias", "Paris is", "x"),)
)


def draw(*shape: int) -> torch.Tensor:
    return torch.arange(1.0, 1.0 + torch.Size(shape).numel()).reshape(shape) / 7


def edit(**changes: Any) -> Edit:
    content: dict[str, Any] = {
        "method": "rome",
        "config": {"lr": 0.1, "layers": [1, 2], "stop": None, "name": "Zoë"},
        "facts": (FACT,),
        "base": "f" * 32,
        "parents": ("a" * 16,),
        "ground": "b" * 16,
        "seed": 3,
        "prefixes": ("", "Yes 🎉."),
        "deltas": {
            Site(5, "down"): LowRank(draw(4, 2), draw(6, 2)),
            Site(6, "down"): Columns(torch.tensor([1, 3]), draw(4, 2)),
            Site(7, "up"): Dense(draw(4, 6)),
            Site(8, "down"): Graft("melo", {"radius": 0.5}, {"keys": draw(2, 3), "rows": torch.tensor([4, 5])}),
        },
        "carry": {"key/5.down": draw(1, 6), "count": torch.tensor(5), "half": draw(3).to(torch.bfloat16)},
        "report": Report({"loss": [0.25]}),
        "versions": {"errata": "0.1.0"},
    }
    return Edit(**{**content, **changes})


OTHER: dict[str, Any] = {
    "method": "memit",
    "config": {"lr": 0.2},
    "facts": (replace(FACT, target="Nice"),),
    "base": "0" * 32,
    "parents": (),
    "ground": "",
    "seed": 4,
    "prefixes": ("",),
    "carry": {},
    "deltas": {},
    "format": 1,
}
CIRCUMSTANCES: dict[str, Any] = {
    "report": Report({"loss": [0.5], "seconds": {"solve": 3.0}}),
    "versions": {"errata": "9"},
    "author": "Zoë",
    "reason": "because",
    "source": "atlas",
    "created_at": "2026-01-01T00:00:00+00:00",
    "tags": ("news", "geography"),
    "tenant": "acme",
    "valid_from": "2026-01-01",
    "valid_until": "2027-01-01",
}


# ------------------------------------------------------------------ the id


def test_the_id_is_stable() -> None:
    assert edit().id == edit().id
    assert len(edit().id) == 16
    assert int(edit().id, 16) >= 0
    # In another process, with another hash seed: nothing depends on the order of a set.
    code = "from tests.test_edit import edit; import sys; sys.stdout.write(edit().id)"
    root = Path(__file__).parents[1]
    environment = {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "PYTHONHASHSEED": "7"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert run.stdout == edit().id


@pytest.mark.parametrize("name", OTHER)
def test_the_id_changes_with_the_content(name: str) -> None:
    assert edit(**{name: OTHER[name]}).id != edit().id


@pytest.mark.parametrize("name", CIRCUMSTANCES)
def test_the_id_does_not_change_with_circumstances(name: str) -> None:
    changed = edit(**{name: CIRCUMSTANCES[name]})
    assert changed.id == edit().id
    assert Edit.from_bytes(changed.to_bytes()).id == edit().id


def test_every_field_is_one_or_the_other() -> None:
    assert {*OTHER, *CIRCUMSTANCES} == set(Edit.__dataclass_fields__)


@pytest.mark.parametrize("change", [{"reason": "x"}, {"source": "x"}, {"id": "x"}, {"probes": ()}])
def test_what_the_model_does_not_learn_of_a_fact_is_no_part_of_the_id(change: dict[str, Any]) -> None:
    assert edit(facts=(replace(FACT, **change),)).id == edit().id
    assert edit(facts=(replace(FACT, rephrases=("Of all towns France chose",)),)).id != edit().id


def test_an_edit_of_the_first_format_keeps_its_id() -> None:
    first = edit(format=1)
    assert first.id == "cbec22b74f00626c"  # as version 1 computed it
    assert not {"tags", "tenant", "valid_from", "valid_until"} & first.meta().keys()
    again = Edit.from_bytes(first.to_bytes())
    assert (again.format, again.id, again.tags) == (1, first.id, ())


def test_the_id_changes_with_any_number() -> None:
    ids = {edit().id}
    for site, delta in edit().deltas.items():
        for name, tensor in delta.tensors().items():
            moved = tensor.clone()
            moved.view(-1)[-1] = (
                torch.nextafter(moved.view(-1)[-1], torch.tensor(99.0)) if tensor.is_floating_point() else 6
            )
            fields = {**delta.tensors(), name: moved}
            other = replace(delta, state=fields) if isinstance(delta, Graft) else type(delta)(**fields)
            ids.add(edit(deltas={**edit().deltas, site: other}).id)
    assert len(ids) == 1 + 2 + 2 + 1 + 2


def test_the_id_changes_with_where_a_delta_stands() -> None:
    delta = LowRank(draw(4, 2), draw(6, 2))
    ids = {edit(deltas={site: delta}).id for site in (Site(5, "down"), Site(6, "down"), Site(5, "up"))}
    ids |= {edit(deltas={Site(5, "down"): kind}).id for kind in (Dense(delta.dense()), Dense(delta.dense().double()))}
    assert len(ids) == 5


def test_the_id_changes_with_what_the_same_bytes_mean() -> None:
    numbers = draw(24)
    carried = [
        numbers,
        numbers.reshape(4, 6),
        numbers.reshape(6, 4),
        numbers.view(torch.int32),
        numbers.view(torch.bfloat16),
    ]
    assert len({edit(carry={"key": tensor}).id for tensor in carried}) == len(carried)


def test_the_id_changes_with_a_grafts_settings() -> None:
    graft = Graft("melo", {"radius": 0.5}, {"keys": draw(2, 3)})
    others = [graft, replace(graft, config={"radius": 0.6}), replace(graft, wrapper="grace")]
    assert len({edit(deltas={Site(1, "down"): g}).id for g in others}) == 3


# ------------------------------------------------------------------ the file


def test_a_file_gives_the_edit_back(tmp_path: Path) -> None:
    whole = replace(edit(), **CIRCUMSTANCES)
    whole.save(tmp_path / "e.safetensors")
    again = Edit.load(tmp_path / "e.safetensors")
    assert again.meta() == whole.meta()
    assert again.facts == whole.facts
    assert (again.parents, again.prefixes) == (whole.parents, whole.prefixes)
    assert list(again.deltas) == list(whole.deltas)
    for site, delta in whole.deltas.items():
        assert type(again.deltas[site]) is type(delta)
        for name, tensor in delta.tensors().items():
            assert torch.equal(again.deltas[site].tensors()[name], tensor)
    assert again.carry.keys() == whole.carry.keys()
    assert all(torch.equal(again.carry[k], t) and again.carry[k].dtype == t.dtype for k, t in whole.carry.items())
    assert again.to_bytes() == whole.to_bytes()


def test_equal_edits_are_equal_files() -> None:
    assert edit().to_bytes() == edit().to_bytes()
    backwards = edit(carry=dict(reversed(edit().carry.items())))
    assert backwards.to_bytes() == edit().to_bytes()


def test_views_of_larger_tensors_are_saved_as_what_they_show() -> None:
    big = draw(8, 12)
    view = edit(deltas={Site(1, "down"): Dense(big.T[:6, :4].T)}, carry={"part": big[2:4]})
    again = Edit.from_bytes(view.to_bytes())
    assert (
        again.id
        == view.id
        == edit(deltas={Site(1, "down"): Dense(big.T[:6, :4].T.contiguous())}, carry={"part": big[2:4].clone()}).id
    )
    assert len(view.to_bytes()) < big.numel() * 4 + 2000


def test_an_empty_edit_is_a_file_too() -> None:
    empty = edit(deltas={}, carry={}, facts=(), config={})
    assert Edit.from_bytes(empty.to_bytes()).id == empty.id
    assert (empty.sites, empty.nbytes) == ([], 0)


def test_what_the_book_keeps_is_json() -> None:
    meta = json.loads(json.dumps(edit().meta(), allow_nan=False))
    assert meta == edit().meta()
    assert meta["sites"] == ["5.down", "6.down", "7.up", "8.down"]
    assert meta["facts"][0]["target"] == "Lyon"
    assert edit().nbytes == sum(t.numel() * t.element_size() for _, t in edit()._tensors())


# ------------------------------------------------------------------ altered files

DATA = edit().to_bytes()
HEADER = int.from_bytes(DATA[:8], "little")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_noticed_or_of_no_consequence(place: int, change: int) -> None:
    altered = bytearray(DATA)
    altered[place] ^= change
    try:
        read = Edit.from_bytes(bytes(altered), "the file x")
    except (CorruptEdit, NewerBook) as error:  # the latter where the byte is the number of the format
        assert str(error).startswith("the file x ")  # noqa: PT017 - either way is right
        return
    assert read.id == edit().id  # the byte was of the report or the versions: the book's own hash is for those
    assert place < 8 + HEADER


@settings(max_examples=60, deadline=None)
@given(st.integers(8 + HEADER, len(DATA) - 1), st.integers(0, 7))
def test_a_changed_bit_of_a_tensor_is_always_noticed(place: int, bit: int) -> None:
    altered = bytearray(DATA)
    altered[place] ^= 1 << bit
    with pytest.raises(CorruptEdit, match="has been altered: its content hashes to"):
        Edit.from_bytes(bytes(altered))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(DATA) - 1))
def test_a_torn_file_is_noticed(length: int) -> None:
    with pytest.raises(CorruptEdit, match="restore it"):
        Edit.from_bytes(DATA[:length])


@pytest.mark.parametrize("change", ["target", "prompt", "seed", "sites", "kinds", "facts", "grafts", "id", "config"])
def test_a_changed_description_is_noticed(change: str) -> None:
    header = json.loads(DATA[8 : 8 + HEADER])
    meta = json.loads(header["__metadata__"]["errata"])
    values: dict[str, Any] = {
        "seed": 9,
        "sites": ["x"],
        "kinds": ["graft"] * 4,
        "facts": [{}],
        "grafts": [],
        "id": "0" * 16,
    }
    values |= {"config": 5}
    if change in ("target", "prompt"):
        meta["facts"][0][change] = "Nice"  # the prompt no longer names its subject
    else:
        meta[change] = values[change]
    header["__metadata__"]["errata"] = json.dumps(meta)
    text = json.dumps(header).encode()
    with pytest.raises(CorruptEdit) as caught:
        Edit.from_bytes(len(text).to_bytes(8, "little") + text + DATA[8 + HEADER :])
    assert "\n" not in str(caught.value)


def test_a_newer_file_says_so() -> None:
    header = json.loads(DATA[8 : 8 + HEADER])
    meta = json.loads(header["__metadata__"]["errata"])
    header["__metadata__"]["errata"] = json.dumps({**meta, "format": 3})
    text = json.dumps(header).encode()
    with pytest.raises(NewerBook, match=r"newer errata \(format 3\); update"):
        Edit.from_bytes(len(text).to_bytes(8, "little") + text + DATA[8 + HEADER :])


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0{}", b"\x02\0\0\0\0\0\0\0[]", b"PK\x03\x04" * 9]
)
def test_what_is_no_edit_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    path.write_bytes(data)
    with pytest.raises(CorruptEdit, match=r"e\.safetensors is not an edit"):
        Edit.load(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CorruptEdit, match="cannot be read"):
            Edit.load(path)


def test_a_label_is_tidied() -> None:
    label = Label(tags="news, geography,news", valid_from="2026-01-01", valid_until="20261231")  # type: ignore[arg-type]
    assert label.tags == ("news", "geography")
    assert label.valid_until == "2026-12-31"
    assert label.to_dict() == {
        "tags": ("news", "geography"), "valid_from": "2026-01-01", "valid_until": "2026-12-31",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"valid_from": "tomorrow"}, "YYYY-MM-DD"),
        ({"valid_until": "2026-02-30"}, "valid-until"),
        ({"valid_from": "2026-02-02", "valid_until": "2026-02-01"}, "before the first"),
        ({"tags": ("a", " ")}, "tag"),
        ({"tags": ("a\nb",)}, "one line"),
    ],
)
def test_what_cannot_be_on_a_label(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Label(**given)


def test_labels_are_told_from_settings() -> None:
    label, rest = split({"author": "ada", "tags": ["x"], "seed": 3, "reason": ""})
    assert (label, rest) == (Label(author="ada", tags=("x",)), {"seed": 3})


def test_a_report_is_read_by_name_and_kept_as_it_was_given() -> None:
    entries = {"norm_ratio": {"5.down": 0.5}, "loss": [0.25], "converged": [True], "notes": ["a word"]}
    report = Report(entries)
    assert (report.norm_ratio, report.converged, report.notes) == ({"5.down": 0.5}, [True], ["a word"])
    assert (list(report.facts), dict(report.seconds), list(report.forgotten), list(report.cases)) == ([], {}, [], [])
    assert report["loss"] == [0.25]  # a method's own
    assert report.to_dict() == report == entries
    assert report.plus(notes=[], gates=[1]).to_dict() == {**entries, "notes": [], "gates": [1]}
    assert Edit.from_bytes(edit(report=report).to_bytes()).report == report
