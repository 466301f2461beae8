"""Counts: equal to every published row, structural, and closed under the regulariser."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.architectures import REGISTRY, Architecture, FeedForward, Norm, parse
from hushlm.config import ModelShape
from hushlm.cost.counts import flops, nonlinear_operations
from hushlm.cost.published import PublishedRow, published_rows
from hushlm.shapes import GPT2_SMALL


@pytest.mark.parametrize("row", published_rows(), ids=lambda row: f"{row.table}-{row.architecture}")
def test_flops_equal_the_published_table(row: PublishedRow) -> None:
    counted = flops(row.architecture, row.shape)
    assert abs(counted.ffn / 1e9 - row.ffn_gflops) < 0.06
    assert abs(counted.attention / 1e9 - row.attention_gflops) < 0.06


def test_the_published_tables_are_all_there() -> None:
    assert len(published_rows()) == 22
    assert {row.table for row in published_rows()} == {"3", "4", "7", "8", "aero4", "aero5"}


@pytest.mark.parametrize(
    ("name", "context", "expected"),
    [
        ("SM+LN+G", 128, ["LN: 24 x R^128x768", "SM: 144 x R^128x128", "G: 12 x R^128x3072"]),
        ("SM+LN+R", 256, ["LN: 24 x R^256x768", "SM: 144 x R^256x256", "R: 12 x R^256x3072"]),
        ("SM+ScFuFFN", 128, ["SM: 144 x R^128x128"]),
        ("EReg(SM(t)+ScFuFFN)", 512, ["SM: 144 x R^512x512"]),
        ("SM+R", 128, ["SM: 144 x R^128x128", "R: 12 x R^128x3072"]),
        ("SM2+R2", 128, ["SM: 144 x R^128x128", "R2: 12 x R^128x3072"]),
        ("SM2+Q", 128, ["SM: 144 x R^128x128", "Q: 12 x R^128x3072"]),
        ("SM2+B", 128, ["SM: 144 x R^128x128", "B: 12 x R^128x3072"]),
    ],
)
def test_operations_are_written_as_the_paper_does(name: str, context: int, expected: list[str]) -> None:
    assert [str(operation) for operation in nonlinear_operations(parse(name), replace(GPT2_SMALL, context=context))] == expected


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_operations_are_those_of_the_name(architecture: Architecture) -> None:
    counts = {operation.name: operation.count for operation in nonlinear_operations(architecture, GPT2_SMALL)}
    assert counts.get("PS" if architecture.power else "SM") == 144
    assert not {"PS", "SM"} <= counts.keys()
    assert ("LN" in counts) == (architecture.norm is Norm.LAYER)
    ffns = {} if architecture.feed_forward.is_linear else {architecture.feed_forward.value: 12 - architecture.removed_ffns}
    assert {name: count for name, count in counts.items() if name not in ("SM", "PS", "LN", "RMS")} == ffns
    assert ("RMS" in counts) == (architecture.norm is Norm.RMS)


@settings(deadline=None)
@given(
    layers=st.integers(1, 40),
    heads=st.integers(1, 16),
    head_width=st.integers(2, 64),
    tokens=st.integers(1, 512),
    architecture=st.sampled_from([a for a in REGISTRY if not a.removed_ffns]),
)
def test_flops_follow_the_formulas(layers: int, heads: int, head_width: int, tokens: int, architecture: Architecture) -> None:
    width = heads * head_width
    shape = ModelShape(layers=layers, heads=heads, width=width, context=512, vocabulary=1000)
    full = flops(architecture, shape, tokens, "full")
    products = 1 if architecture.feed_forward is FeedForward.SCALED_FUSED else 12 if architecture.feed_forward.is_gated else 8
    ffn = 2 * tokens * width**2 * products
    assert full.ffn == layers * ffn
    assert full.attention == layers * (8 * tokens * width**2 + 4 * tokens**2 * width)
    assert full.head == 2 * tokens * width * 1000
    paper = flops(architecture, shape, tokens)
    assert (paper.ffn, paper.head) == (full.ffn, 0)
    assert full.attention - paper.attention == layers * tokens**2 * width


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_the_regulariser_costs_nothing(architecture: Architecture) -> None:
    plain = architecture.without_regulariser()
    assert flops(architecture, GPT2_SMALL) == flops(plain, GPT2_SMALL)
    assert nonlinear_operations(architecture, GPT2_SMALL) == nonlinear_operations(plain, GPT2_SMALL)


def test_tokens_beyond_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="context of 128"):
        flops(parse("SM"), GPT2_SMALL, 129)


def test_counting_needs_no_heavy_library() -> None:
    code = "import sys, hushlm.cost.counts, hushlm.cost.published; assert not {'torch', 'jax', 'spu', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
