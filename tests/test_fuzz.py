"""Every reader, given nonsense: an error of ours or a success, never another exception, never a partial write.

A slice; `benchmarks/fuzz.py` runs the whole.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzzing import fuzz, readers

COUNTS = {"jsonl": 400, "json": 300, "csv": 400, "gz": 200, "gates": 300, "toml": 300, "safetensors": 300}
COUNTS |= {"book": 60, "pages": 100}


@pytest.mark.parametrize("name", COUNTS)
def test_a_reader_knows_what_it_cannot_read(name: str, tmp_path: Path) -> None:
    found = fuzz(readers(tmp_path)[name], COUNTS[name], seed=1, directory=tmp_path)
    assert found["read"] > 0
    assert not found["no sentence"]
    assert found.total() > found["read"]
