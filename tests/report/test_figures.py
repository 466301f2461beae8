"""Figures: what is drawn is what was given, and nothing overlaps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from hushlm.report.figures import LayerCourse, head_entropy_figure, head_share_figure, layer_entropy_figure, save_figure

MAXIMUM = 3.88


def tables(sizes: list[tuple[int, int]]) -> list[tuple[str, list[list[float]]]]:
    generator = np.random.default_rng(0)
    return [(f"EReg(SM(t)+ScFuFFN) {i}", generator.uniform(0, MAXIMUM, size).tolist()) for i, size in enumerate(sizes)]


def courses(layers: list[int]) -> list[LayerCourse]:
    generator = np.random.default_rng(0)
    steps = list(range(1, 200, 10))
    return [
        LayerCourse(f"EReg(SM(t)+ScFuFFN) {n}", steps, generator.uniform(0, MAXIMUM, (len(steps), n)).tolist(), MAXIMUM, 195)
        for n in layers
    ]


def texts(axis: Axes) -> Iterator[Text]:
    """What is written in and around a panel. Tick labels beyond the limits exist, but are not drawn."""
    for ticks, (low, high), across in ((axis.get_xticklabels(), axis.get_xlim(), 0), (axis.get_yticklabels(), axis.get_ylim(), 1)):
        yield from (tick for tick in ticks if min(low, high) <= tick.get_position()[across] <= max(low, high))
    yield from (axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts)
    if (legend := axis.get_legend()) is not None:
        yield from (legend.get_title(), *legend.get_texts())


def no_overlap(figure: Figure) -> None:
    """No two texts of a figure cover each other, and none leaves the figure."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    shown = [text for axis in figure.axes for text in texts(axis) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in shown]
    for text, box in boxes:
        assert box.x0 >= -1 and box.y0 >= -1, text  # noqa: PT018
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text  # noqa: PT018
    for (one, a), (two, b) in combinations(boxes, 2):
        across = min(a.x1, b.x1) - max(a.x0, b.x0)
        down = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) <= 1, (one, two)


@pytest.mark.parametrize("sizes", [[(1, 1)], [(6, 4)], [(6, 4)] * 4 + [(12, 4)], [(12, 12), (12, 12)]])
def test_a_heat_map_shows_every_head_on_one_scale(sizes: list[tuple[int, int]]) -> None:
    panels = tables(sizes)
    figure = head_entropy_figure(panels, MAXIMUM)
    no_overlap(figure)
    images = [image for axis in figure.axes for image in axis.images]
    assert len(images) == len(panels)
    for image, (title, table) in zip(images, panels, strict=True):
        assert image.get_clim() == (0, MAXIMUM)
        np.testing.assert_array_equal(np.asarray(image.get_array()), table)
        assert image.axes.get_title() == title
        assert [text.get_text() for text in image.axes.texts] == [f"{value:.2f}" for row in table for value in row]


@pytest.mark.parametrize("layers", [[2], [6, 6, 6, 6, 12], [24]])
def test_layer_entropies_are_drawn_against_the_step(layers: list[int]) -> None:
    runs = courses(layers)
    figure = layer_entropy_figure(runs)
    no_overlap(figure)
    for axis, run in zip(figure.axes, runs, strict=True):
        lines = [line for line in axis.lines if str(line.get_label()).isdigit()]
        assert len(lines) == len(run.layer_entropy_nats[0])
        for layer, line in enumerate(lines):
            np.testing.assert_array_equal(line.get_ydata(), [row[layer] for row in run.layer_entropy_nats])
        assert len({line.get_color() for line in lines}) == len(lines)
        assert "step 195" in axis.get_title()


def test_a_run_that_ended_in_nan_can_be_drawn(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "layer_entropy_nats": [1.0, 2.0]},
        {"step": 2, "layer_entropy_nats": [0.0, math.nan]},
        {"step": 3, "layer_entropy_nats": []},
    ]
    course = LayerCourse.from_metrics("SM", rows, MAXIMUM, stopped_at=3)
    assert list(course.steps) == [1, 2]
    save_figure(layer_entropy_figure([course]), tmp_path / "course.png")
    save_figure(head_entropy_figure([("SM", [[0.0, math.nan]])], MAXIMUM), tmp_path / "heads.png")


@pytest.mark.parametrize("models", [1, 4])
def test_shares_are_grouped_by_model(models: int) -> None:
    shares = np.random.default_rng(0).dirichlet([1] * 4, models)
    figure = head_share_figure([(f"EReg(SM(t)+ScFuFFN) {i}", row.tolist()) for i, row in enumerate(shares)])
    no_overlap(figure)
    heights = [[bar.get_height() for bar in container] for container in figure.axes[0].containers]
    np.testing.assert_allclose(np.transpose(heights), 100 * shares)


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_figure(head_entropy_figure(tables([(6, 4)]), MAXIMUM), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
