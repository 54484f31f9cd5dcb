"""Files that were trained for a model: kept under their hash, found again, and noticed when they change.

pytest tests/stats/test_trained.py
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from errata.errors import BadConfig, BadFile
from errata.model.lm import LM
from errata.stats import trained
from tests import tiny

DATA = b"what was learned"


@pytest.fixture
def lm() -> LM:
    return tiny.build("gpt2")


def test_what_is_kept_is_found_by_the_model_and_by_its_hash(lm: LM) -> None:
    assert trained.kept(lm, "mend") is None
    digest = trained.keep(lm, "mend", DATA)
    assert digest == hashlib.sha256(DATA).hexdigest() == trained.kept(lm, "mend")
    assert trained.data_of("mend", digest) == DATA
    assert trained.digest_of("mend", digest) == digest
    assert trained.kept(lm, "other") is None
    assert trained.kept(tiny.build("gpt2", seed=1), "mend") is None


def test_the_last_that_was_kept_is_the_models_and_the_others_stay(lm: LM) -> None:
    first, second = (trained.keep(lm, "mend", data) for data in (DATA, b"more"))
    assert trained.kept(lm, "mend") == second
    assert trained.data_of("mend", first) == DATA


def test_a_file_is_kept_under_its_hash_and_is_nobodys(lm: LM, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(DATA)
    digest = trained.digest_of("mend", str(tmp_path / "mine"))
    (tmp_path / "mine").unlink()
    assert trained.data_of("mend", digest) == DATA
    assert trained.kept(lm, "mend") is None


def test_a_pointer_to_nothing_or_that_is_torn_is_none(lm: LM, cache: Path) -> None:
    digest = trained.keep(lm, "mend", DATA)
    (cache / f"mend-{digest}.safetensors").unlink()
    assert trained.kept(lm, "mend") is None
    with pytest.raises(BadConfig, match="not kept here"):
        trained.digest_of("mend", digest)
    for torn in (b"{", b"[]", b'{"sha256": "../../etc/passwd"}', b'{"sha256": 3}'):
        (cache / f"mend-{lm.fingerprint}.json").write_bytes(torn)
        assert trained.kept(lm, "mend") is None


def test_an_altered_or_unreadable_file_is_named(lm: LM, cache: Path, tmp_path: Path) -> None:
    digest = trained.keep(lm, "mend", DATA)
    (cache / f"mend-{digest}.safetensors").write_bytes(b"else")
    with pytest.raises(BadFile, match="was altered"):
        trained.data_of("mend", digest)
    with pytest.raises(BadFile, match="nowhere cannot be read: No such file"):
        trained.digest_of("mend", str(tmp_path / "nowhere"))
    with pytest.raises(BadFile, match="no name of a file"):
        trained.digest_of("mend", "a\0b")
