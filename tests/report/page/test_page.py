"""The report in a real browser: it draws, moves, hides, stays inside a narrow window, and asks nobody for anything."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.browser import Opened, chromium, open_page
from tests.extras import need_extra

from hushlm.architectures import parse
from hushlm.config import RunConfig
from hushlm.cost import price
from hushlm.data import TokenStore, open_token_store
from hushlm.entropy import attainable_maximum_nats, summarise
from hushlm.entropy.diagnostics import DISPROPORTIONATE_SHARE, overload_and_collapse_shares
from hushlm.plan import prefill_plan
from hushlm.report.page.run_record import read_runs
from hushlm.training import train

need_extra("report")

from hushlm.report.page.document import report_page, write_report  # noqa: E402
from hushlm.report.page.look import MOST_POINTS, thinned  # noqa: E402

WICKED = "<script>alert(1)<b>&amp;%{x}"
"""What a run may be called."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> list[Path]:
    """Two runs of different shapes, the second with a name that is HTML."""
    base = tmp_path_factory.mktemp("runs")

    def trained(architecture: str, output: Path, **shape: int) -> Path:
        config = RunConfig.from_dict(
            {
                "architecture": architecture,
                "shape": {"layers": 2, "heads": 2, "width": 16, "context": 32} | shape,
                "data": {"corpus": str(text_folder), "validation_share": 0.1, "cache": str(base / "data")},
                "training": {"steps": 9, "batch": 4, "watch_every": 2, "evaluate_every": 3, "evaluation_batches": 2, "threads": 1},
                "output": str(output),
            }
        )
        store: TokenStore = open_token_store(config.data)
        return train(config, store).folder

    return [trained("EReg(SM(t)+ScFuFFN)", base / "plain"), trained("SM+LN+G", base / WICKED, layers=3, heads=4)]


@pytest.fixture(scope="module")
def page(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(runs, path)
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Opened]:
    with open_page(browser, page.as_uri()) as found:
        found.page.wait_for_selector("html[data-drawn=yes]")
        yield found
        assert found.complaints == []
        assert found.requests == [page.as_uri()]


def test_every_chart_is_drawn(opened: Opened) -> None:
    drawn = opened.page.evaluate("[...document.querySelectorAll('.chart')].map(c => [c.dataset.figure, c.querySelectorAll('svg').length])")
    keys = {key for key, _ in drawn}
    assert keys >= {"loss", "validation_perplexity", "gradient_norm", "learning_rate", "penalty", "temperature", "threshold"}
    assert keys >= {"ranges", "overload", "collapse", "heads-0", "heads-1", "layers-0", "layers-1", "bytes-0", "bytes-1"}
    assert all(count > 0 for _, count in drawn)
    assert opened.page.locator(".chart .trace, .chart .hm, .chart .heatmaplayer image").count() > len(drawn)


def test_the_slider_moves_maps_courses_and_ranges(opened: Opened, runs: list[Path]) -> None:
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    slider = opened.page.locator("#step")
    slider.focus()
    for key, index in (("Home", 0), ("ArrowRight", 1), ("End", -1)):
        slider.press(key)
        opened.page.wait_for_timeout(100)
        step = rows[0][index]["step"]
        assert opened.page.inner_text("#step-shown") == str(step)
        assert slider.get_attribute("aria-valuetext") == f"step {step}"
        for run in range(2):
            heads = opened.page.evaluate(f"document.getElementById('chart-heads-{run}').data[0].z")
            assert heads == [[round(nats, 4) for nats in layer] for layer in rows[run][index]["head_entropy_nats"]]
            assert opened.page.evaluate(f"document.getElementById('chart-layers-{run}').layout.shapes[0].x0") == step
            assert f"step {step}" in opened.page.inner_text(f"#verdicts-{run}")
        shares = opened.page.evaluate("document.getElementById('chart-ranges').data.map(trace => trace.x[0])")
        assert shares == pytest.approx([100 * share for share in rows[0][index]["share_per_range"]], abs=0.01)


def test_playing_ends_at_the_last_step(opened: Opened) -> None:
    opened.page.click("#play")
    assert opened.page.get_attribute("#play", "aria-pressed") == "true"
    opened.page.locator("#play", has_text="Play").wait_for()
    assert opened.page.inner_text("#step-shown") == "9"


def test_a_field_of_the_heat_map_tells_its_number(opened: Opened, runs: list[Path]) -> None:
    last = json.loads((runs[0] / "metrics.jsonl").read_text().splitlines()[-1])["head_entropy_nats"]
    opened.page.locator("#chart-heads-0").scroll_into_view_if_needed()
    box = opened.page.locator("#chart-heads-0 .nsewdrag").bounding_box()
    opened.page.mouse.move(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    opened.page.wait_for_selector("#chart-heads-0 .hovertext")
    said = opened.page.locator("#chart-heads-0 .hovertext").first.text_content()
    assert "layer 0, head 1" in said
    assert f"{last[0][1]:.3f} nats" in said
    assert f"{last[0][1] / attainable_maximum_nats(32):.0%}" in said


def test_a_box_hides_its_run_everywhere(opened: Opened) -> None:
    opened.page.uncheck("[data-shows='1']")
    assert opened.page.locator("[data-run='1']:visible").count() == 0
    assert opened.page.evaluate("document.getElementById('chart-loss').data.map(trace => trace.visible)") == [None, False]
    opened.page.check("[data-shows='1']")
    assert opened.page.locator("[data-run='1']:visible").count() == 2


def test_names_are_text(opened: Opened) -> None:
    assert WICKED in opened.page.inner_text("#runs tbody tr:nth-child(2) th")
    assert opened.page.locator("#runs tbody b").count() == 0
    opened.page.locator("#chart-ranges").scroll_into_view_if_needed()
    ticks = opened.page.evaluate("[...document.querySelectorAll('#chart-ranges .ytick text')].map(tick => tick.textContent)")
    assert ticks[1].startswith("<script>alert(1)<b>&a")


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1600, "dark")])
def test_it_fits_the_window_light_and_dark(browser: Any, page: Path, width: int, scheme: str) -> None:
    with open_page(browser, page.as_uri(), width, 740, scheme) as found:
        found.page.wait_for_selector("html[data-drawn=yes]")
        assert found.page.evaluate("document.documentElement.scrollWidth") <= width
        assert found.page.evaluate("[...document.querySelectorAll('.chart')].every(c => c.scrollWidth <= c.parentElement.clientWidth)")
        paper = found.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, paper[4:-1].split(","))) < 60) == (scheme == "dark")
        found.page.click("#theme")
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
        assert found.complaints == []


def test_the_policy_stops_a_script_that_is_not_the_pages_own(browser: Any, page: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    changed.write_text(page.read_text().replace("</main>", "</main><script>document.title = 'taken'</script>"))
    with open_page(browser, changed.as_uri()) as found:
        found.page.wait_for_selector("html[data-drawn=yes]")
        assert found.page.title() != "taken"
        assert any("Content Security Policy" in complaint for complaint in found.complaints)


def test_the_tables_hold_what_the_runs_and_the_cost_model_say(opened: Opened, runs: list[Path]) -> None:
    text = opened.page.inner_text("main")
    for run in read_runs(runs):
        assert run.shape is not None
        amount = price(prefill_plan(parse(run.architecture), run.shape, 32)).total
        assert f"{amount.bytes / 1e6:,.1f}" in text
        assert f"{run.rows[-1]['validation_perplexity']:,.3f}" in text
    assert "different shapes" in text
    assert "shape.layers" in opened.page.inner_text("#settings")
    assert "training.seed" not in opened.page.inner_text("#settings")


def test_bytes_by_layer_add_up(opened: Opened, runs: list[Path]) -> None:
    for index, run in enumerate(read_runs(runs)):
        assert run.shape is not None
        found = price(prefill_plan(parse(run.architecture), run.shape, 32))
        shown = opened.page.evaluate(f"document.getElementById('chart-bytes-{index}').data.flatMap(t => t.x).reduce((a, b) => a + b)")
        assert shown == pytest.approx(found.total.bytes / 1e6, abs=0.05)


def test_the_same_runs_give_the_same_bytes(runs: list[Path], page: Path, tmp_path: Path) -> None:
    write_report(runs, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_a_measurement_has_a_page_of_its_own(browser: Any, tmp_path: Path) -> None:
    report = summarise([[0.5, 1.0], [2.0, 0.1], [1.5, 1.5]], 64)
    (tmp_path / "measured.json").write_text(json.dumps({"architecture": "llama", "context": 64, **report.to_dict()}))
    (tmp_path / "page.html").write_text(report_page(read_runs([tmp_path / "measured.json"])))
    with open_page(browser, (tmp_path / "page.html").as_uri()) as found:
        found.page.wait_for_selector("html[data-drawn=yes]")
        assert found.page.locator("#step, #price, #training").count() == 0
        assert found.page.evaluate("document.getElementById('chart-heads-0').data[0].z")[1] == [2.0, 0.1]
        assert found.complaints == []


def test_long_runs_are_thinned_evenly_with_both_ends() -> None:
    kept = thinned(range(10_001))
    assert len(kept) == MOST_POINTS
    assert (kept[0], kept[-1]) == (0, 10_000)
    gaps = {after - before for before, after in itertools.pairwise(kept)}
    assert gaps <= {25, 26}
    assert thinned([1, 2, 3]) == [1, 2, 3]


def test_shares_and_verdicts_are_drawn_by_the_same_line() -> None:
    for heads in ([[3.4, 3.4], [3.0, 1.0], [0.0, 1.0], [0.0, 0.0]], [[1.0, 2.0], [0.1, 3.3]], [[0.0]]):
        found = summarise(heads, 64)
        overload, collapse = overload_and_collapse_shares(heads, 64)
        assert (overload > DISPROPORTIONATE_SHARE, collapse > DISPROPORTIONATE_SHARE) == (found.overload, found.collapse)
    assert overload_and_collapse_shares([[math.log(64) * 0.75] * 2, [0.0, 1.0]], 64) == (1.0, 0.5)
