from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import ModelShape
from hushlm.cost import price
from hushlm.experiments.documents import write_document
from hushlm.experiments.experiment import with_changes
from hushlm.experiments.paper.claims import judge, rank_correlation
from hushlm.experiments.paper.paper_page import write_paper_page
from hushlm.experiments.paper.reproduction import document_of, outcome_of, read_reproduction
from hushlm.experiments.paper.tables import EREG, EXPERIMENTS, GAMMAS
from hushlm.experiments.published_figures import published_figures
from hushlm.experiments.runs import RunRecord
from hushlm.experiments.scales import PAPER_SCALES
from hushlm.experiments.study import Outcome, RowOutcome
from hushlm.plan import prefill_plan

MICRO = PAPER_SCALES["micro"]


def record(
    architecture: str, seed: int, perplexity: float | None, entropy: float = 1.0, stopped: int | None = None, deep: bool = False
) -> RunRecord:
    base = MICRO.stress if deep else MICRO.base
    assert base is not None
    config = with_changes(replace(base, architecture=architecture), (("training.seed", seed),))
    shape = config.shape
    return RunRecord(
        architecture=architecture,
        settings=config.to_dict(),
        corpus={"name": "made up", "fingerprint": "0" * 64},
        stopped_at_step=stopped,
        collapsed_layers=list(range(6, 12)) if stopped else [],
        reason="",
        validation_perplexity=perplexity,
        test_perplexity=perplexity,
        head_entropy_nats=[[entropy] * shape.heads for _ in range(shape.layers)] if perplexity else None,
        course={"steps": [1, 2], "layer_entropy_nats": [[1.0] * shape.layers] * 2},
        thresholds=[[0.3 + 0.02 * (layer + head) for head in range(shape.heads)] for layer in range(shape.layers)],
        cpu_seconds=1.0,
        versions={},
    )


def outcome(name: str, perplexities: dict[str, list[float | None]], entropies: dict[str, float] | None = None) -> Outcome:
    """Rows without figures are unfinished; a stress row of SM is stopped, the others run on."""
    experiment = EXPERIMENTS[name]
    rows = []
    for row in experiment.rows:
        row = replace(row, architecture=row.name(MICRO.base.shape.layers))
        key = row.label or row.architecture
        if row.stress:
            stopped = 57 if row.architecture == "SM" else None
            runs = (record(row.architecture, 0, None if stopped else 9.0, stopped=stopped, deep=True),)
            rows.append(RowOutcome(row, 1e-2, {}, runs, 1))
            continue
        found = perplexities.get(key, perplexities.get(row.architecture, []) if not row.label else [])
        entropy = (entropies or {}).get(key, 1.0)
        made = tuple(record(row.architecture, seed, value, entropy) for seed, value in enumerate(found))
        rows.append(RowOutcome(row, 5e-3, {5e-3: found[0] if found else None}, made, 3))
    return Outcome(experiment, MICRO, experiment.sized(MICRO.base), tuple(rows))


def verdicts(found: Outcome) -> dict[str, str]:
    return {claim.text: claim.verdict for claim in judge(found)}


def as_published(name: str) -> dict[str, list[float | None]]:
    figures = published_figures(EXPERIMENTS[name].published, MICRO.base.shape.layers)
    return {
        architecture: [None if np.isnan(row.perplexity) else row.perplexity] * 3
        for architecture, row in figures.items()
        if row.perplexity is not None
    }


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=12))
def test_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    left, right = zip(*pairs, strict=True)
    mine = rank_correlation(left, right)
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert np.isnan(mine)
    else:
        assert mine == pytest.approx(spearmanr(left, right).statistic)


@pytest.mark.parametrize("name", ["table2", "table3", "table4", "table5", "table6", "table7", "table8", "aero4"])
def test_the_papers_own_figures_reproduce_its_order(name: str) -> None:
    figures = as_published(name)
    assert len(figures) >= 3
    assert verdicts(outcome(name, figures))["the order of the published perplexities"] == "reproduced"


def test_the_opposite_order_contradicts() -> None:
    upside_down: dict[str, list[float | None]] = {name: [100 - (values[0] or 99)] * 3 for name, values in as_published("table2").items()}
    assert verdicts(outcome("table2", upside_down))["the order of the published perplexities"] == "contradicted"


@pytest.mark.parametrize(
    ("ereg", "verdict"),
    [
        ([6.0, 6.1, 6.2], "reproduced"),
        ([6.0, 7.5, 6.0], "not reproduced at this scale"),
        ([8.0, 8.0, 8.0], "contradicted"),
        ([6.0], "not run"),
    ],
)
def test_a_comparison_is_judged_seed_by_seed(ereg: list[float | None], verdict: str) -> None:
    found = outcome("table3", {EREG: ereg, "SM+ScFuFFN": [7.0, 7.1, 7.2]})
    claim = next(claim for claim in judge(found) if claim.text.startswith("EReg lowers the perplexity of SM+ScFuFFN"))
    assert claim.verdict == verdict
    if verdict == "reproduced":
        assert "6.00 against 7.00 (-14.3%)" in claim.evidence


def test_a_stopped_seed_counts_as_the_worst() -> None:
    found = outcome("table2", {"SM+R": [5.0, None, 5.0], "SM+G": [6.0, 6.0, 6.0]})
    claim = next(claim for claim in judge(found) if "ReLU does better" in claim.text)
    assert claim.verdict == "not reproduced at this scale"
    assert "diverged against 6.00" in claim.evidence


def test_divergence_is_told_with_step_and_layers() -> None:
    claim = next(claim for claim in judge(outcome("table2", {})) if "diverges" in claim.text)
    assert claim.verdict == "reproduced"
    assert "SM was stopped before update 57, layers 6, 7, 8, 9, 10, 11 at zero entropy" in claim.evidence


@pytest.mark.parametrize(("rising", "verdict"), [(True, "reproduced"), (False, "contradicted")])
def test_the_tolerance_is_judged_by_ranks(rising: bool, verdict: str) -> None:
    labels = [f"gamma {gamma:g}" for gamma in GAMMAS]
    # All heads lie at one entropy, so their share near uniform is 0 or 1.
    entropies = {label: 3.8 if (index > 3) == rising else 1.0 for index, label in enumerate(labels)}
    found = outcome("fig7", {label: [6.0, 6.0, 6.0] for label in labels}, entropies)
    assert list(verdicts(found).values()) == [verdict]


def test_a_document_tells_the_whole_outcome(tmp_path: Path) -> None:
    found = outcome("table2", as_published("table2"))
    path = write_document(document_of(found), tmp_path)
    document = read_reproduction(path)
    assert document == document_of(outcome_of(document))
    row = document["rows"][0]
    assert row["perplexity_by_seed"] == [2.69, 2.69, 2.69]
    assert row["published_perplexity"] == 2.69
    assert document["rows"][5]["published_perplexity"] == "diverged"
    # The paper's baseline at GPT-2 small costs what the cost room says anywhere.
    shape = ModelShape(layers=12, heads=12, width=768, context=128, vocabulary=50257)
    assert row["gpt2_small_bytes"] == int(price(prefill_plan(parse("SM+LN+G"), shape, 128)).total.bytes)


def test_a_file_that_is_no_document_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"name": "table2"}')
    with pytest.raises(ValueError, match=r"does not hold the results of a reproduction"):
        read_reproduction(path)


@pytest.mark.parametrize("name", list(EXPERIMENTS))
def test_every_experiment_has_its_page(name: str, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    keys = [row.label or row.name(MICRO.base.shape.layers) for row in experiment.rows if not row.stress]
    found = outcome(name, {key: [6.0 + index, 6.5 + index, 7.0 + index] for index, key in enumerate(keys)})
    page = write_paper_page(found, document_of(found), tmp_path)
    text = page.read_text()
    assert f"hushlm reproduce {name} --preset micro --seeds 3" in text
    for claim in judge(found):
        assert claim.evidence in text
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert len(pictures) == len(experiment.figures)
    for picture in pictures:
        assert f"({picture})" in text
    assert len(page.with_suffix(".csv").read_text().splitlines()) == 1 + len(keys)


def test_an_unfinished_experiment_says_so(tmp_path: Path) -> None:
    found = outcome("table3", {"SM+LN+G": [6.0, 6.0, 6.0]})
    page = write_paper_page(found, document_of(found), tmp_path)
    text = page.read_text()
    assert "has not finished" in text
    assert "**not run**" in text


def test_pages_are_drawn_again_from_the_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = outcome("table2", as_published("table2"))
    write_document(document_of(found), tmp_path / "results")
    first = write_paper_page(found, document_of(found), tmp_path / "first")
    folders = ["--results", str(tmp_path / "results"), "--pages", str(tmp_path / "again"), "--runs", str(tmp_path / "runs")]
    assert main(["reproduce", "table2", "--from-results", *folders]) == 0
    for path in first.parent.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
    index = (tmp_path / "again" / "README.md").read_text()
    assert "| [table2 (micro)](table2-micro.md) | the order of the published perplexities | reproduced |" in index
    assert not (tmp_path / "runs").exists()
    assert "reproduced: the order of the published perplexities" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["table9"], "There is nothing to reproduce under 'table9'"),
        (["table2", "--seeds", "0"], "--seeds must be at least 1"),
        (["fig2", "--from-results"], "fig2-micro.json"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", *arguments, "--runs", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
