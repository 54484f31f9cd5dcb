"""Scales, ticks, labels that make room for one another, and markup that holds."""

from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from errata.report import bars, curves
from errata.report.markup import Safe, el, text
from errata.report.svg import Scale, mark, spread


@given(st.text())
def test_any_text_can_be_written(said: str) -> None:
    ElementTree.fromstring(el("p", said, title=said))


@given(st.text(st.characters(exclude_categories=("C", "Zl", "Zp"))))
def test_text_of_ordinary_characters_is_read_as_it_was(said: str) -> None:
    read = ElementTree.fromstring(el("p", said, title=said))
    assert (read.text or "", read.get("title")) == (said, said)


def test_safe_markup_is_kept_and_other_text_is_not() -> None:
    assert el("b", "a < b", Safe("<i>c</i>"), class_="x", data_n=None) == '<b class="x">a &lt; b<i>c</i></b>'
    assert el("br") == "<br/>"
    assert text(Safe("&amp;")) == "&amp;"
    assert text("&amp;") == "&amp;amp;"


@given(st.lists(st.floats(0, 100), max_size=7))
def test_labels_keep_their_order_their_distance_and_the_plot(levels: list[float]) -> None:
    settled = spread(levels, 12, 0, 100)
    order = sorted(range(len(levels)), key=lambda i: levels[i])
    for one, other in pairwise(order):
        assert settled[other] - settled[one] >= 12 - 1e-6
    if settled:
        assert min(settled) >= -1e-6
        assert max(settled) <= 100 + 1e-6


def test_labels_with_room_stay_where_they_are() -> None:
    assert spread([80, 10, 40], 12, 0, 100) == [80, 10, 40]


@given(st.floats(1e-3, 1e6), st.floats(1.01, 1e6), st.booleans())
def test_ticks_lie_within_and_are_few(low: float, factor: float, log: bool) -> None:
    scale = Scale(low, low * factor, 0, 100, log)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low * 0.998 <= tick <= low * factor * 1.002 for tick in ticks)
    assert all(0 <= scale(tick) <= 100 for tick in ticks)


def test_scales_by_hand() -> None:
    assert Scale(0, 1, 200, 0)(0.25) == 150
    assert Scale(1, 100, 0, 100, log=True)(10) == pytest.approx(50)
    assert Scale(0, 1, 0, 100)(7) == 100, "what lies outside stops at the edge"
    assert Scale(5, 5, 0, 100)(5) == 50
    assert Scale(0, 1, 0, 1).ticks() == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert Scale(1, 1000, 0, 1, log=True).ticks() == [1, 10, 100, 1000]


@pytest.mark.parametrize("values", [(3.0, 3.0), (20.0, 1e300), (-1.0, 2.0), (0.0, 0.0), (1e-9, 1e-9)])
def test_curves_of_any_size_stay_inside(values: tuple[float, float]) -> None:
    points = tuple(curves.Point(10.0**i, v) for i, v in enumerate(values))
    panel = curves.Panel("p", share=False, x_ticks=(1, 10), dimensions=(("out", 4),))
    drawn = ElementTree.fromstring(curves.curves(panel, [curves.Line("a", 0, points)]))
    dots = next(e for e in drawn.iter("{http://www.w3.org/2000/svg}polyline")).get("points") or ""
    for pair in dots.split():
        x, y = (float(v) for v in pair.split(","))
        assert 0 <= x <= 380
        assert 0 <= y <= 260
        assert math.isfinite(x + y)


def test_a_band_covers_the_points_that_have_an_interval() -> None:
    points = (curves.Point(1, 1.0), curves.Point(10, 0.9, 0.8, 1.0), curves.Point(100, 0.8, 0.7, 0.9))
    drawn = curves.curves(curves.Panel("p", share=True), [curves.Line("a", 0, points)])
    band = next(e for e in ElementTree.fromstring(drawn).iter() if (e.get("class") or "").startswith("band"))
    assert len((band.get("points") or "").split()) == 4


def test_methods_differ_by_shape_as_well_as_by_colour() -> None:
    assert len({mark(slot, 0, 0) for slot in range(8)}) == 8
    assert all(mark(slot, 0, 0) != mark(slot + 8, 0, 0) for slot in range(8)), "two of one colour"


def test_rows_of_nothing_and_of_zeros_are_drawn() -> None:
    for drawing in (
        bars.bars("t", []),
        bars.bars("t", [bars.Bar("a", 0, 0.0, "0 B")]),
        bars.ranges("t", [], share=False),
    ):
        ElementTree.fromstring(drawing)
    row = bars.Bar("a method with a very long name", 11, 0.5, "−0.10", other=0.6)
    assert "a method with a…" in bars.dumbbells("t", [row])
