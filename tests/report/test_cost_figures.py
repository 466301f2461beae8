"""Figures of prices: what is drawn is what was given, nothing overlaps, and the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tests.report.test_figures import no_overlap

from hushlm.report.cost_figures import Cloud, Curve, PerplexityPoint, curves_figure, frontier_figure, perplexity_figure
from hushlm.report.figures import save_figure

KINDS = ("SM+G", "SM+R", "SM", "SM+ScFFN", "SM+ScFuFFN", "SM+LN+G", "SM+LN+R", "SM+LN")


def clouds(scale: float) -> list[Cloud]:
    generator = np.random.default_rng(0)
    found = []
    for name in KINDS:
        points = [(float(x), float(scale * y)) for x, y in generator.lognormal(0, 1, (40, 2)) * [1e9, 1e8]]
        found.append(Cloud(name, points, sorted(points)[:5]))
    return found


def perplexities(count: int, spread: float) -> list[PerplexityPoint]:
    generator = np.random.default_rng(0)
    return [
        PerplexityPoint(f"EReg(SM{i}+ScFuFFN)", 1e8 * (1 + spread * generator.random()), 5 + generator.random(), i % 3 == 0)
        for i in range(count)
    ]


def lines(axis: Axes, minimum: int = 2) -> list[list[tuple[float, float]]]:
    points = [list(zip(np.asarray(line.get_xdata()), np.asarray(line.get_ydata()), strict=True)) for line in axis.lines]
    return [line for line in points if len(line) >= minimum]


def test_a_frontier_shows_every_model_every_front_and_every_budget() -> None:
    panels = [("parameters", clouds(1.0)), ("FLOPs of a pass", clouds(300.0))]
    figure = frontier_figure(panels, [2 * 10**9, 5 * 10**9])
    no_overlap(figure)
    for axis, (label, given) in zip(figure.axes, panels, strict=True):
        drawn = lines(axis)
        assert axis.get_ylabel() == label
        for cloud in given:
            assert [tuple(point) for point in cloud.points] in drawn
            assert [tuple(point) for point in cloud.front] in drawn
        assert [line[0][0] for line in drawn[-2:]] == [2e9, 5e9]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(KINDS)


@pytest.mark.parametrize(("count", "spread"), [(1, 1.0), (4, 3.0), (9, 2.0)])
def test_every_measured_model_is_named_where_nothing_covers_it(count: int, spread: float) -> None:
    points = perplexities(count, spread)
    figure = perplexity_figure([("task", points)])
    no_overlap(figure)
    (axis,) = figure.axes
    assert sorted(text.get_text() for text in axis.texts) == sorted(point.name for point in points)
    front = next(line for line in axis.lines if line.get_label() == "Pareto front")
    assert np.asarray(front.get_xdata()).tolist() == sorted(point.bytes for point in points if point.on_front)


def test_a_task_is_a_panel() -> None:
    figure = perplexity_figure([("one", perplexities(3, 1.0)), ("other", perplexities(2, 1.0))])
    assert [axis.get_title() for axis in figure.axes] == ["one", "other"]


def growth(across: int, curves: int) -> Figure:
    sizes = [32 * 2**k for k in range(8)]
    panels = [
        (f"size {panel}", [Curve(f"curve {i}", [(x, 1e8 * (i + 1) * x**1.5) for x in sizes]) for i in range(curves)]) for panel in range(5)
    ]
    return curves_figure(panels, across)


@pytest.mark.parametrize(("across", "curves"), [(2, 1), (1, 4)])
def test_growth_is_drawn_as_given(across: int, curves: int) -> None:
    figure = growth(across, curves)
    no_overlap(figure)
    assert len(figure.axes) == 5
    for axis in figure.axes:
        assert len(lines(axis)) == curves
        assert lines(axis)[0][-1] == (4096, 1e8 * 4096**1.5)
        assert 4096 in axis.get_xticks()
    assert len(figure.legends) == (1 if curves > 1 else 0)


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (save_figure(growth(2, 1), tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert first[:4] == b"\x89PNG"
