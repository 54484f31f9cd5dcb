"""What is written on an edit."""

from __future__ import annotations

from typing import Any

import pytest

from errata.errors import InputError
from errata.label import Label, split


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
