"""Prices of whole plans: they add up, follow the registry, meet the targets, and grow as they must."""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.architectures import REGISTRY, Architecture, parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN, parse_network, price, price_generation
from hushlm.cost.against import against_paper
from hushlm.cost.growth import growth_by_size, growth_by_tokens
from hushlm.cost.published import published_rows
from hushlm.plan import LENGTH_BUCKET, PUBLISHED, Reveal, decode_plan, prefill_plan
from hushlm.shapes import GPT2_SMALL, KNOWN_SHAPES

SMALL = ModelShape(layers=6, heads=4, width=64, context=64, vocabulary=256)

# Issue targets, GB of one token at GPT-2 small's shape.
TARGETS = {
    "SM+ScFuFFN": 2.2,
    "SM2+ScFuFFN": 1.6,
    "SM1+ScFuFFN": 1.45,
    "SM+R": 3.0,
    "SM2+R": 2.4,
    "SM1+R": 2.25,
    "SM+LN+G": 9.0,
}


@pytest.mark.parametrize(("name", "gigabytes"), TARGETS.items())
def test_targets_are_met(name: str, gigabytes: float) -> None:
    assert price(prefill_plan(parse(name), GPT2_SMALL, 128)).total.bytes < gigabytes * 1e9


def test_a_further_token_is_cheap() -> None:
    report = price(decode_plan(parse("SM2+ScFuFFN"), GPT2_SMALL, 128))
    head = sum(step.amount.bytes for step in report.steps if step.step.name in ("head", "reveal"))
    assert report.total.bytes - head < 0.10e9


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_parts_add_up(architecture: Architecture) -> None:
    report = price(prefill_plan(architecture, SMALL, 64), network=LAN)
    for parts in (report.by_operation.values(), report.by_layer.values(), [step.amount for step in report.steps]):
        assert sum(part.bytes for part in parts) == pytest.approx(report.total.bytes, abs=len(report.steps) + 1)
        assert sum(part.seconds for part in parts) == pytest.approx(report.total.seconds)
    assert set(report.by_layer) == {None, *range(6)}
    document = report.to_dict()
    assert document["total"]["bytes"] == report.total.bytes
    assert len(document["steps"]) == len(report.plan.steps)


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_the_regulariser_costs_nothing(architecture: Architecture) -> None:
    reports = [price(prefill_plan(a, SMALL, 64)) for a in (architecture, architecture.without_regulariser())]
    assert reports[0].total == reports[1].total


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_published_forms_cost_more_than_ours(architecture: Architecture) -> None:
    ours = price(prefill_plan(architecture, GPT2_SMALL, 128)).total
    theirs = price(prefill_plan(architecture, GPT2_SMALL, 128, rewrites=PUBLISHED)).total
    assert ours.bytes < 0.8 * theirs.bytes
    assert ours.seconds < theirs.seconds


@given(
    layers=st.integers(6, 24),
    heads=st.sampled_from([1, 2, 4, 8]),
    tokens=st.integers(1, 128),
    architecture=st.sampled_from(REGISTRY),
)
@settings(deadline=None, max_examples=30)
def test_more_layers_and_tokens_cost_more(layers: int, heads: int, tokens: int, architecture: Architecture) -> None:
    shape = ModelShape(layers=layers, heads=heads, width=64, context=129, vocabulary=300)
    base = price(prefill_plan(architecture, shape, tokens)).total.bytes
    assert price(prefill_plan(architecture, replace(shape, layers=layers + 1), tokens)).total.bytes > base
    assert price(prefill_plan(architecture, shape, 129)).total.bytes >= base


def test_slower_networks_take_longer() -> None:
    plan = prefill_plan(parse("SM2+R"), SMALL, 64)
    lan, wan = (price(plan, network=network).total for network in (LAN, WAN))
    assert lan.bytes == wan.bytes
    assert lan.seconds < wan.seconds
    assert wan.seconds == pytest.approx(wan.compute_seconds + 0.08 * price(plan).total.rounds + 8 * wan.bytes / 100e6, rel=1e-3)


def test_networks_are_parsed() -> None:
    assert (parse_network("lan"), parse_network("WAN")) == (LAN, WAN)
    for text in ("20ms,300Mbps", "20,300", " 20 , 300 "):
        custom = parse_network(text)
        assert (custom.round_trip_seconds, custom.bits_per_second) == (pytest.approx(0.02), 300e6)


@pytest.mark.parametrize("text", ["", "dsl", "20", "20,0", "-1,100", "20,fast", "1,2,3"])
def test_other_networks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="network must be lan, wan"):
        parse_network(text)


def test_a_cache_saves_and_costs_of_an_answer_add_up() -> None:
    answer = price_generation(parse("SM2+R"), SMALL, 48, 5)
    assert [report.plan.rows for report in answer.passes] == [64, 1, 1, 1, 1]
    assert [report.plan.keys for report in answer.passes] == [64, 64, 64, 64, 64]
    assert answer.total.bytes == sum(report.total.bytes for report in answer.passes)
    assert answer.total.bytes < answer.without_cache.bytes
    one = price_generation(parse("SM2+R"), SMALL, 48, 1)
    assert one.total == one.without_cache


def test_passes_are_priced_at_the_lengths_that_a_session_runs() -> None:
    answer = price_generation(parse("SM2+R"), SMALL, 4, 30)
    assert [report.plan.keys for report in answer.passes] == [32] * 29 + [64]
    assert answer.passes[0].total == price(prefill_plan(parse("SM2+R"), SMALL, LENGTH_BUCKET)).total
    short = replace(SMALL, context=20)
    assert price_generation(parse("SM2+R"), short, 4, 1).passes[0].plan.keys == 20


def test_answers_longer_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="context of 64"):
        price_generation(parse("SM"), SMALL, 60, 6)
    with pytest.raises(ValueError, match="at least one"):
        price_generation(parse("SM"), SMALL, 60, 0)


def test_revealing_logits_is_cheapest_and_topk_dearest() -> None:
    reveals = (Reveal(256, "logits", 1), Reveal(256, "token", 1), Reveal(256, "topk", 5))
    plans = [prefill_plan(parse("SM1+R"), SMALL, 64, reveal) for reveal in reveals]
    bytes_ = [price(plan).total.bytes for plan in plans]
    assert bytes_ == sorted(bytes_)


def test_every_published_row_has_ours_beside_it() -> None:
    rows = against_paper()
    assert len(rows) == len(published_rows())
    for row, published in zip(rows, published_rows(), strict=True):
        assert row["architecture"] == str(published.architecture)
        assert abs(row["ffn_gflops"] - row["published"]["ffn_gflops"]) < 0.06
        assert abs(row["attn_gflops"] - row["published"]["attn_gflops"]) < 0.06
        # Both of ours lie below what is published; ours as Hush runs it at under 0.41 of it.
        assert row["bytes"] < row["bytes_as_published_forms"] < row["published"]["bytes"]
        assert row["ratio"] < 0.41


def test_growth_in_context_is_quadratic_and_in_layers_linear() -> None:
    rows = growth_by_size(parse("SM2+ScFuFFN"), replace(GPT2_SMALL, layers=4))
    by = {(row["size"], row["value"]): row["bytes"] for row in rows}
    assert by["context", 1024] / by["context", 512] == pytest.approx(4, rel=0.25)
    first, second, fourth = (by["layers", n] for n in (4, 8, 16))
    assert (fourth - second) == pytest.approx(2 * (second - first), rel=1e-6)
    tokens = growth_by_tokens(parse("SM2+ScFuFFN"), SMALL, 32, counts=(1, 4, 16))
    assert tokens[0]["bytes"] == tokens[0]["bytes_without_cache"]
    assert all(row["bytes"] < row["bytes_without_cache"] for row in tokens[1:])


def test_the_largest_shape_is_priced_without_a_machine_for_it() -> None:
    shape = replace(KNOWN_SHAPES["7B"], context=4096)
    report = price(prefill_plan(parse("SM2+ScFuFFN"), shape, 4096))
    assert report.total.bytes > 1e12
    assert report.server_peak_bytes > 32 * 4 * 4096 * 4096 * 8


def cpu_seconds(code: str) -> float:
    """The processor time that a new interpreter takes for some code. Not wall time, for the machine may be busy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_an_answer_needs_no_heavy_library_and_less_time_than_importing_one() -> None:
    code = (
        "import sys; from hushlm.cli.main import main; assert main(['cost', 'SM2+R', '--json']) == 0; "
        "assert not {'torch', 'jax', 'spu', 'numpy', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    )
    assert cpu_seconds(code) < cpu_seconds("import torch")
