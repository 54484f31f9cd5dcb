"""How far routed edits reach: the distances are those of keys, and the picture and the command show them.

pytest tests/editing/test_radius.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from errata.cli import main
from errata.delta import Site
from errata.editing.radius import Reach, reach
from errata.errors import BadConfig
from errata.fact import Fact
from errata.methods.shared.routed import between
from errata.model.query import Query
from errata.model.trace import Trace, at
from tests import tiny

FACTS = (
    Fact(prompt="The capital of France is", subject="France", target="Rome", rephrases=("France is governed from",)),
    Fact(
        prompt="Bruno Keller works as a",
        subject="Bruno Keller",
        target="baker",
        rephrases=("By trade, Bruno Keller is a",),
    ),
)


def test_near_are_rephrasings_and_the_radius_lies_between() -> None:
    lm = tiny.build("llama", 2)
    found = reach(lm, FACTS, "melo", index=1, by="prompt")
    keys = {}
    for text in (t for fact in FACTS for t in (fact.prompt, *fact.rephrases)):
        batch = lm.tokens.batch([Query(text)])
        with torch.no_grad(), Trace(lm, outputs=[site := Site.parse(found.site)]) as trace:
            lm.forward(batch)
        assert batch.ends is not None
        keys[text] = at(trace.outputs[site], batch.ends)[0].double().numpy()
    wanted = sorted(float(np.linalg.norm(keys[f.prompt] - keys[f.rephrases[0]])) for f in FACTS)
    assert found.near == pytest.approx(wanted, abs=1e-3)
    assert len(found.far) == len(FACTS) * 64
    each = [reach(lm, [fact], "melo", index=1, by="prompt") for fact in FACTS]
    assert found.radius == pytest.approx(sum(one.radius for one in each) / 2)
    one = each[0]
    assert one.radius == pytest.approx(between(torch.tensor(one.near), torch.tensor(one.far)), rel=1e-3)


def test_grace_is_asked_by_what_goes_in_and_others_have_no_radius() -> None:
    lm = tiny.build("llama", 2)
    assert reach(lm, FACTS, "grace", layer=2, by="prompt").site == "2.down"
    for method in ("rome", "wise"):
        with pytest.raises(BadConfig, match="no radius"):
            reach(lm, FACTS, method)
    with pytest.raises(BadConfig, match="no facts"):
        reach(lm, [], "melo")


def test_the_picture_is_the_same_file_twice(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = Reach("melo", "1.up", 2, 1.5, (0.5, 1.0), (2.0, 3.0, 4.0))
    first, second = (found.draw(tmp_path / f"{name}.svg").read_bytes() for name in ("a", "b"))
    assert first == second
    assert b"radius 1.5" in first


def test_the_command_prints_both_distributions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"prompt": f.prompt, "subject": f.subject, "target": f.target, "rephrases": f.rephrases} for f in FACTS]
    (tmp_path / "facts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["radius", str(tmp_path / "facts.jsonl"), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["facts"], row["method"]) == (2, "melo")
    assert list(row["rephrasings"]) == list(row["other questions"]) == ["0%", "10%", "50%", "90%", "100%"]
    assert main(["radius", str(tmp_path / "facts.jsonl")]) == 0
    assert "other questions" in capsys.readouterr().out
    assert main(["radius", str(tmp_path / "facts.jsonl"), "--set", "by=prompt", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["rephrasings"]["50%"] < row["other texts"]["50%"]
    assert row["radius"] < row["other texts"]["100%"]
