"""Who held, who broke and between which checkpoints; and what is certain enough to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from errata.report.names import half, mean, number, ordered, seconds, size
from errata.report.read import Checkpoint, Measured, RunReport
from errata.report.rows import ProbeRows
from errata.report.verdict import above, gap, headline, listing, verdict


def run(
    label: str, said: list[float | None], *, perplexity: list[float | None] | None = None, **more: object
) -> RunReport:
    """Return a run with checkpoints at 1, 10, 100, …, each with 100 facts, on a model of perplexity 20."""
    ppl = perplexity or [20.0] * len(said)
    points = tuple(
        Checkpoint(10**i, {"said": Measured(s, 0.05, 100), "perplexity": Measured(p, 1.0, 40), **extra(more, i)}, {})
        for i, (s, p) in enumerate(zip(said, ppl, strict=True))
    )
    base = Checkpoint(
        0, {"said": Measured(0.02, 0.02, 100), "perplexity": Measured(20.0, 1.0, 40), **extra(more, -1)}, {}
    )
    stopped = str(more["stopped"]) if "stopped" in more else None
    return RunReport(
        Path(label), label, {"mode": more.get("mode", "sequential")}, base, points, 0, stopped, ProbeRows(), label
    )


def extra(more: dict[str, object], place: int) -> dict[str, Measured]:
    """Return other metrics, given as lists whose last entry is the unedited model's."""
    return {name: Measured(values[place], 0.02, 100) for name, values in more.items() if isinstance(values, list)}


@pytest.mark.parametrize(
    ("said", "perplexity", "sentence", "reason"),
    [
        ([0.9, 0.9, 0.8], None, "holds to 100 edits", ""),
        ([0.9, 0.9, 0.2], None, "broke between 10 and 100 edits", "said 0.20"),
        ([0.9, 0.9, 0.9], [20, 25, 41], "broke between 10 and 100 edits", "perplexity 41.0, unedited 20.0"),
        ([0.9, 0.9, 0.9], [20, 40, None], "broke between 10 and 100 edits", "perplexity is no longer a number"),
        ([0.4, 0.3, 0.2], None, "never held", "said 0.40"),
        ([0.0, 0.9, 0.9], None, "holds to 100 edits", ""),  # one bad fact at the start decides nothing
        ([0.02, 0.02, 0.03], None, "writes nothing", "no better than the unedited model"),
        ([0.9], None, "holds to 1 edit", ""),
        ([], None, "not measured", ""),
    ],
)
def test_verdicts(said: list[float | None], perplexity: list[float | None], sentence: str, reason: str) -> None:
    found = verdict(run("rome", said, perplexity=perplexity), "said")
    assert (found.sentence(), found.reason) == (sentence, reason)


@pytest.mark.parametrize(("said", "sentence"), [(1.0, "holds to 1 edit"), (0.0, "writes nothing")])
def test_six_facts_are_too_few_to_say_that_nothing_was_written(said: float, sentence: str) -> None:
    before, after = (Checkpoint(i, {"said": Measured(s, 0.0, 6)}, {}) for i, s in enumerate((0.0, said)))
    few = RunReport(Path("rome"), "rome", {"mode": "sequential"}, before, (after,), 0, None, ProbeRows(), "rome")
    assert verdict(few, "said").sentence() == sentence


def test_a_run_stopped_between_checkpoints_broke_after_the_last_one() -> None:
    found = verdict(run("rome", [0.9, 0.9], stopped="perplexity 1234 at 60 edits"), "said")
    assert found.sentence() == "broke after 10 edits"


def test_the_headline_puts_like_verdicts_together_and_leaves_the_control_out() -> None:
    runs = [
        run("ft", [0.9, 0.1]),
        run("memit", [0.9, 0.9]),
        run("none", [0.02, 0.02]),
        run("rome", [0.9, 0.2]),
        run("emmet", [0.9, 0.95]),
    ]
    assert headline(runs) == "emmet and memit hold to 10 edits; rome and ft broke between 1 and 10 edits."
    assert headline([runs[2]]) == "none writes nothing."
    disturbed = run("memit", [0.9, 0.9], neighborhood=[0.6, 0.5, 0.8])
    assert headline([disturbed]) == "memit holds to 10 edits but disturbs its neighbours."
    assert verdict(disturbed, "said").price == "neighborhood 0.50, unedited 0.80"


def test_one_edit_at_a_time_the_shares_are_the_news() -> None:
    runs = [run(label, [said], mode="independent") for label, said in (("rome", 0.5), ("memit", 0.97), ("none", 0.02))]
    assert headline(runs) == "One edit at a time, memit says 97\u00a0% of its facts and rome 50\u00a0%."


def test_the_widest_gap_is_told_and_narrow_ones_are_not() -> None:
    wide = run("rome", [0.9, 0.1], efficacy=[0.95, 0.8, 0.2])
    assert (
        gap([wide]) == "Teacher-forced numbers flatter: at 10 edits rome has efficacy 0.80 and says 0.10 of its facts."
    )
    assert gap([run("rome", [0.9, 0.8], efficacy=[0.95, 0.85, 0.2])]) == ""


def test_better_means_beyond_the_interval_of_the_difference() -> None:
    assert above(Measured(0.9, 0.03, 100), Measured(0.8, 0.04, 100))
    assert not above(Measured(0.9, 0.08, 100), Measured(0.8, 0.08, 100))
    assert not above(Measured(1.0, None, 1), Measured(0.0, None, 1)), "a single fact has no interval"
    assert not above(Measured(1.0, 0.0, 3), Measured(0.5, 0.1, 3)), "three facts that agree are not certain"
    assert above(Measured(1.0, 0.0, 300), Measured(0.9, 0.03, 300))
    assert not above(None, Measured(0.0, 0.1, 9))


def test_numbers_as_they_are_written() -> None:
    assert [number(v) for v in (0.0, 12.345, 1234.5, 0.01234, 3e-7, 2e9, None)] == [
        "0", "12.3", "1,234", "0.0123", "3e-07", "2.0e+09", "–",
    ]  # fmt: skip
    share, perplexity = Measured(0.937, 0.0249, 200), Measured(1234.5, 34.0, 40)
    assert (mean("said", share), half("said", share)) == ("0.94", "± 0.02")
    assert (mean("perplexity", perplexity), half("perplexity", perplexity)) == ("1,234", "± 34")
    assert (mean("drift", Measured(0.00452, 0.001, 9)), half("drift", Measured(0.00452, 0.001, 9))) == (
        "0.0045",
        "± 0.0010",
    )
    assert (mean("said", Measured(None)), half("said", Measured(0.5))) == ("–", "")
    assert [size(v) for v in (0, 1536, 3 * 2**30, None)] == ["0 B", "1.50 KiB", "3.00 GiB", "–"]
    assert [seconds(v) for v in (0.06, 3.21, 600, None)] == ["60 ms", "3.21 s", "10.0 min", "–"]
    assert listing(["a", "b", "c"]) == "a, b and c"
    assert ordered(["zeta", "perplexity", "portability.alias", "said", "paraphrase"]) == [
        "said", "paraphrase", "portability.alias", "perplexity", "zeta",
    ]  # fmt: skip


def test_a_headline_does_not_praise_a_run_that_says_half() -> None:
    runs = [run("rome", [0.9, 0.55]), run("memit", [0.9, 0.55]), run("ft", [0.9, 0.95])]
    said = headline(runs)
    assert "rome and memit hold to 10 edits with 55\u00a0% of their facts said" in said
    assert "ft holds to 10 edits" in said
    assert "95" not in said
