"""The page itself: one HTML file with its script, its style sheet, plotly and every number inside.

The file's content-security policy lets nothing load from anywhere and no script run but the two whose hashes it names. Names and settings
are escaped by the template; numbers are JSON that a browser does not execute.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.colors import sample_colorscale
from plotly.offline import get_plotlyjs

from hushlm.cost import WAN, CostReport, Network
from hushlm.entropy import attainable_maximum_nats
from hushlm.files import write_atomic
from hushlm.report.page.comparison import different_settings, notices
from hushlm.report.page.curves import curves
from hushlm.report.page.heads import dynamics, extremes, heat_map, layer_course, range_bars
from hushlm.report.page.look import HEAT_COLOURS, run_style
from hushlm.report.page.prices import layer_bytes, price_run, price_table
from hushlm.report.page.run_record import RunRecord, read_runs

__all__ = ["report_page", "write_report"]


@dataclass(frozen=True)
class _RunView:
    """A run as the template shows it: what of the record and its price is text."""

    record: RunRecord
    colour: str
    has_course: bool
    price: CostReport | None

    @property
    def shape(self) -> str:
        shape = self.record.shape
        if shape is None:
            return f"T={self.record.context}"
        return f"L={shape.layers} H={shape.heads} D={shape.width} T={shape.context} V={shape.vocabulary:,}"

    @property
    def progress(self) -> str:
        if self.record.end == "measured":
            return "measured on a text"
        return f"{self.record.rows[-1]['step']:,} of {self.record.settings['training.steps']:,}"

    @property
    def loss(self) -> str:
        loss = self.record.rows[-1].get("loss")
        return "-" if loss is None else f"{loss:,.3f}"

    @property
    def perplexity(self) -> str:
        found = [row["validation_perplexity"] for row in self.record.rows if row.get("validation_perplexity") is not None]
        return f"{found[-1]:,.3f}" if found else "-"

    @property
    def verdicts(self) -> dict[str, str]:
        return dynamics(self.record).verdicts[-1]


def write_report(paths: Sequence[Path], output: Path, network: Network = WAN) -> list[str]:
    """Read runs and write their page, whole or not at all; the same runs give the same bytes.

    Args:
        paths: `--output` folders of trainings, or files that `hushlm entropy --json` printed.
        output: the HTML file.
        network: what the seconds of the prices are for.

    Returns: what a reader has to know about the comparison, a sentence each; the page says the same.

    Raises:
        ValueError: in one sentence, if a run cannot be read.
    """
    runs = read_runs(paths)
    write_atomic(output, report_page(runs, network))
    return notices(runs)


def report_page(runs: Sequence[RunRecord], network: Network = WAN) -> str:
    """The page of some runs as HTML.

    Args:
        runs: at least one, each with at least one row that has head entropies.
        network: what the seconds of the prices are for.
    """
    scale = max(attainable_maximum_nats(run.context) for run in runs)
    prices = [price_run(run, network) for run in runs]
    training, ends = curves(runs), extremes(runs)
    figures = {curve.key: curve.figure for curve in (*training, *ends)}
    figures["ranges"] = range_bars(runs)
    layer_top = max((amount.bytes / 1e6 for found in prices if found for amount in found.by_layer.values()), default=0.0)
    views = []
    for index, (run, found) in enumerate(zip(runs, prices, strict=True)):
        figures[f"heads-{index}"] = heat_map(run, scale)
        course = layer_course(run, scale)
        if course is not None:
            figures[f"layers-{index}"] = course
        if found is not None:
            figures[f"bytes-{index}"] = layer_bytes(found, layer_top)
        views.append(_RunView(run, run_style(index)["color"], course is not None, found))
    moves = [{**dynamics(run).to_dict(), "attainable": attainable_maximum_nats(run.context)} for run in runs]
    steps = sorted({step for move in moves for step in move["steps"] if step is not None})
    plotly, script = get_plotlyjs(), _resource("page.js")
    return _template().render(
        runs=views,
        notices=notices(runs),
        training=training,
        extremes=ends,
        scale_nats=scale,
        gradient=", ".join(sample_colorscale(HEAT_COLOURS, [place / 10 for place in range(11)])),
        steps=steps,
        prices=price_table(runs, prices, network),
        settings=different_settings(runs) if len(runs) > 1 else [(key, [str(value)]) for key, value in runs[0].settings.items()],
        data={"figures": figures, "dynamics": moves, "steps": steps},
        style=Markup(_resource("page.css")),
        plotly=Markup(plotly),
        script=Markup(script),
        policy=(
            f"default-src 'none'; script-src {_hash(plotly)} {_hash(script)}; style-src 'unsafe-inline'; img-src data: blob:; "
            "form-action 'none'; base-uri 'none'"
        ),
        version=version("hushlm"),
    )


def _template() -> Any:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":"), "sort_keys": True}
    return environment.from_string(_resource("page.html"))


def _resource(name: str) -> str:
    return files("hushlm.report.page").joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
