"""Searching within budgets: enumeration, prices equal to the price list, fronts, measured perplexities, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushlm.architectures import KERNEL_ORDERS, REGISTRY, Architecture, FeedForward, Norm, parse
from hushlm.cli.main import main
from hushlm.config import ModelShape
from hushlm.cost import flops, parameters, price, price_total
from hushlm.cost.budget import SearchSpace, best_of_each_kind, every_architecture, further_token, pareto_front, search
from hushlm.cost.measured import read_checkpoint, read_results
from hushlm.cost.quantities import parse_bytes, parse_count, parse_integers
from hushlm.files import write_manifest
from hushlm.model import LanguageModel
from hushlm.plan import decode_plan, prefill_plan

SPACE = SearchSpace(every_architecture(), (1, 2), (32, 64), (1, 3, 4), context=32, vocabulary=256)
SMALL = ["--layers", "1,2", "--widths", "32,64", "--heads", "2,4", "--context", "32", "--vocab", "256"]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "own head"])
@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_parameters_are_those_of_the_model(architecture: Architecture, tied: bool) -> None:
    shape = ModelShape(layers=6, heads=4, width=32, context=16, vocabulary=50, tied_head=tied)
    assert parameters(architecture, shape) == sum(value.numel() for value in LanguageModel(architecture, shape).plain_state().values())


def test_every_combination_with_a_meaning_is_there_once() -> None:
    found = every_architecture()
    assert {a.kernel_order for a in found} == {None, *KERNEL_ORDERS}
    assert {a.feed_forward for a in found} == set(FeedForward)
    # What acts on weights only is the same private program as without it.
    assert {a.norm for a in found} == {Norm.NONE, Norm.LAYER}
    assert len(found) == len(set(found)) == (1 + len(KERNEL_ORDERS)) * (len(FeedForward) + sum(not kind.is_scaled for kind in FeedForward))


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_a_total_alone_is_the_price_lists(architecture: Architecture) -> None:
    shape = ModelShape(layers=6, heads=4, width=64, context=64, vocabulary=256)
    for plan in (prefill_plan(architecture, shape, 64), decode_plan(architecture, shape, 64)):
        assert price_total(plan) == price(plan).total


def test_candidates_carry_the_figures_of_the_rooms_functions() -> None:
    found = search(SPACE)
    assert len(found) == len(SPACE.architectures) * 2 * (2 + 2)
    for candidate in found[:: len(found) // 40]:
        shape = candidate.shape
        plan = prefill_plan(candidate.architecture, shape, 32)
        assert candidate.amount == price(plan).total
        assert candidate.flops == flops(candidate.architecture, shape, convention="full").total
        assert candidate.parameters == parameters(candidate.architecture, shape)
        assert further_token(candidate) == price(decode_plan(candidate.architecture, shape, 32)).total
    assert not [candidate for candidate in found if candidate.shape.heads == 3]


def test_the_best_within_a_budget_is_the_best_of_all_that_fit() -> None:
    found = search(SPACE)
    budget = sorted(candidate.amount.bytes for candidate in found)[len(found) // 2]
    best = best_of_each_kind(found, lambda c: (c.parameters, -c.amount.bytes), lambda c: c.amount.bytes <= budget)
    assert [c.parameters for c in best] == sorted((c.parameters for c in best), reverse=True)
    assert len({c.kind for c in best}) == len(best)
    for candidate in best:
        rivals = [c for c in found if c.kind == candidate.kind and c.amount.bytes <= budget]
        assert candidate.amount.bytes <= budget
        assert candidate.parameters == max(c.parameters for c in rivals)
        assert candidate.amount.bytes == min(c.amount.bytes for c in rivals if c.parameters == candidate.parameters)


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=30))
def test_a_front_holds_exactly_what_nothing_dominates(points: list[tuple[int, int]]) -> None:
    front = pareto_front(points, lambda point: point[0], lambda point: point[1])

    def dominated(one: tuple[int, int]) -> bool:
        return any(other != one and other[0] <= one[0] and other[1] >= one[1] for other in points)

    assert set(front) == {point for point in points if not dominated(point)}
    assert len(front) == len(set(front))
    assert front == sorted(front)


def test_thousands_of_models_are_priced_in_seconds() -> None:
    start = time.process_time()
    found = search(replace(SPACE, layers=tuple(range(1, 9)), heads=(1, 2, 4, 8)))
    assert len(found) > 5000
    assert (time.process_time() - start) / len(found) < 0.005


@pytest.mark.parametrize(("text", "number"), [("2GB", 2 * 10**9), (" 1.5 gb", 1_500_000_000), ("500MB", 5 * 10**8), ("7B", 7)])
def test_bytes_are_parsed(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize(("text", "number"), [("124M", 124_000_000), ("1.3b", 1_300_000_000), ("50257", 50_257)])
def test_counts_are_parsed(text: str, number: int) -> None:
    assert parse_count(text) == number


def test_whole_numbers_are_parsed() -> None:
    assert parse_integers("2, 4,4,6", "Layers") == (2, 4, 6)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["cost", "frontier", *words]) == 0
    return capsys.readouterr().out


def test_the_command_prints_the_largest_within_each_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [*SMALL, "--budget", "20MB,60MB", "--parameters", "50K", "--output", str(tmp_path / "out")]
    document = json.loads(run(capsys, *words, "--json"))
    assert json.loads((tmp_path / "out/frontier.json").read_text()) == document
    assert (tmp_path / "out/frontier.png").read_bytes()[:4] == b"\x89PNG"
    assert [entry["bytes"] for entry in document["budgets"]] == [20_000_000, 60_000_000]
    for entry in document["budgets"]:
        assert entry["largest"]
        assert all(row["bytes"] <= entry["bytes"] for row in entry["largest"])
    assert document["cheapest"][0]["bytes"] == min(row["bytes"] for row in document["candidates"] if row["parameters"] >= 50_000)
    assert document["fronts"]["parameters"][-1]["parameters"] == max(row["parameters"] for row in document["candidates"])
    text = run(capsys, *words)
    assert "Largest models within 0.02 GB" in text
    assert "Cheapest models of at least 0.05 million parameters" in text
    assert str(tmp_path / "out/frontier.png") in text


def test_what_fits_nowhere_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"None of {8 * len(every_architecture())} models: the cheapest takes" in " ".join(run(capsys, *SMALL, "--budget", "1kB").split())


def test_a_search_needs_no_heavy_library() -> None:
    code = (
        f"import sys; from hushlm.cli.main import main; assert main(['cost', 'frontier', '--budget', '1GB', *{SMALL}]) == 0; "
        "assert not {'torch', 'jax', 'spu', 'numpy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_named_architectures_alone_are_searched(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(
        run(capsys, *SMALL, "--architectures", "SM2(t)+ScFuFFN,SM+ScFuFFN(2 deepest FFNs removed)", "--budget", "1GB", "--json")
    )
    names = {(row["architecture"], row["layers"]) for row in document["candidates"]}
    # Two FFNs cannot be removed from one layer.
    assert names == {("SM2(t)+ScFuFFN", 1), ("SM2(t)+ScFuFFN", 2), ("SM+ScFuFFN(2 deepest FFNs removed)", 2)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as training writes it, as far as a reader of perplexities looks."""
    folder = tmp_path / "runs/SM2-R"
    folder.mkdir(parents=True)
    shape = {"layers": 2, "heads": 2, "width": 32, "context": 32, "vocabulary": 256}
    provenance = {"step": 30, "corpus_fingerprint": "ab" * 32}
    (folder / "config.json").write_text(json.dumps({"format": 1, "architecture": "SM2+R", "shape": shape, "provenance": provenance}))
    rows = [{"step": 10, "validation_perplexity": 9.0}, {"step": 20}, {"step": 30, "validation_perplexity": 7.5}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_manifest(folder)
    return folder


def test_a_checkpoints_last_validation_is_held_against_its_bytes(
    capsys: pytest.CaptureFixture[str], checkpoint: Path, tmp_path: Path
) -> None:
    found = read_checkpoint(checkpoint)
    assert (found.architecture, found.perplexity, found.shape.width) == ("SM2+R", 7.5, 32)
    document = json.loads(run(capsys, "--checkpoints", str(tmp_path / "runs/*"), "--output", str(tmp_path / "out"), "--json"))
    ((task, rows),) = document["measured"].items()
    assert "T=32, validation, 30 steps" in task
    assert rows[0]["bytes"] == price(prefill_plan(parse("SM2+R"), found.shape, 32)).total.bytes
    assert rows[0]["on_front"]
    assert document["candidates"] == []
    assert (tmp_path / "out/perplexity.png").exists()


def test_committed_results_are_read_and_their_front_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[2] / "results/kernels-micro.json"
    models = read_results(path)
    assert len(models) == len(json.loads(path.read_text())["rows"])
    document = json.loads(run(capsys, "--results", str(path), "--json"))
    (rows,) = document["measured"].values()
    for row in rows:
        better = [other for other in rows if other["bytes"] <= row["bytes"] and other["perplexity"] < row["perplexity"]]
        assert row["on_front"] == (not better)


def test_what_was_measured_on_different_tasks_is_not_compared(capsys: pytest.CaptureFixture[str], checkpoint: Path) -> None:
    path = Path(__file__).parents[2] / "results/kernels-micro.json"
    document = json.loads(run(capsys, "--checkpoints", str(checkpoint), "--results", str(path), "--json"))
    assert len(document["measured"]) == 2
    assert all(any(row["on_front"] for row in rows) for rows in document["measured"].values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs a --budget"),
        (["--budget", "2"], "'2' is not a number of bytes"),
        (["--budget", "0GB"], "is not a number of bytes"),
        (["--budget", "2GB,x"], "'x' is not a number of bytes"),
        (["--parameters", "many"], "is not a number of parameters"),
        (["--budget", "2GB", "--layers", "two"], "Layers must be whole numbers"),
        (["--budget", "2GB", "--layers", "-1"], "layers = -1"),
        (["--budget", "2GB", "--widths", "1000000000", "--heads", "1"], "width = 1000000000"),
        (["--budget", "2GB", "--widths", "64", "--heads", "7"], "None of the heads 7 divide any of the widths 64"),
        (["--budget", "2GB", "--layers", ",".join(map(str, range(1, 500)))], "combinations"),
        (["--budget", "2GB", "--widths", "100000", "--layers", "1000", "--context", "1000000"], "FLOPs"),
        (["--budget", "2GB", "--architectures", "SM+X"], "Unknown architecture"),
        (["--budget", "2GB", "--network", "modem"], "network must be lan, wan"),
        (["--checkpoints", "nowhere/*"], "There is no folder nowhere/*"),
        (["--results", "nowhere.json"], "nowhere.json does not hold measured perplexities"),
        (["--checkpoints", "tests"], "manifest"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["cost", "frontier", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hushlm: ")
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1


def test_an_altered_or_unvalidated_checkpoint_is_refused(checkpoint: Path) -> None:
    (checkpoint / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl"):
        read_checkpoint(checkpoint)
    write_manifest(checkpoint)
    with pytest.raises(ValueError, match="never validated"):
        read_checkpoint(checkpoint)
