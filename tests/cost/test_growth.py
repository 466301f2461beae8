"""Growth: every row is the price list's, with and without the cache, and the figures show them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, price
from hushlm.cost.growth import growth_by_tokens, powers_of_two
from hushlm.plan import LENGTH_BUCKET, bucket_length, decode_plan, prefill_plan
from hushlm.report.growth_report import GrowthReport
from hushlm.shapes import KNOWN_SHAPES

SHAPE = ModelShape(layers=2, heads=2, width=32, context=64, vocabulary=64)


def test_lengths_are_rounded_as_the_private_program_does() -> None:
    assert [bucket_length(tokens, 80) for tokens in (1, LENGTH_BUCKET, LENGTH_BUCKET + 1, 79)] == [32, 32, 64, 80]


def test_an_answer_is_the_sum_of_its_passes_at_the_lengths_that_are_run() -> None:
    named = parse("SM2+R")
    rows = growth_by_tokens(named, SHAPE, 30, [1, 4, 40], LAN)
    at = replace(SHAPE, context=96)
    lengths = [bucket_length(30 + index, 96) for index in range(40)]
    assert lengths[0] == 32
    assert lengths[-1] == 96
    whole = [price(prefill_plan(named, at, length), network=LAN).total for length in lengths]
    cached = [whole[0], *(price(decode_plan(named, at, length), network=LAN).total for length in lengths[1:])]
    for row, count in zip(rows, (1, 4, 40), strict=True):
        assert row["new_tokens"] == count
        assert row["bytes"] == sum(amount.bytes for amount in cached[:count])
        assert row["bytes_without_cache"] == sum(amount.bytes for amount in whole[:count])
        assert row["seconds"] == pytest.approx(sum(amount.seconds for amount in cached[:count]))


def test_powers_of_two_end_with_the_last() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(40) == [1, 2, 4, 8, 16, 32, 40]
    assert powers_of_two(64) == [1, 2, 4, 8, 16, 32, 64]


def test_the_figures_show_the_tables_rows(tmp_path: Path) -> None:
    report = GrowthReport.make(parse("SM2+ScFuFFN"), SHAPE, LAN, longest=128)
    assert [row["new_tokens"] for row in report.answers["7B"]] == [1, 2, 4, 8, 16, 32, 64, 96]
    assert report.answers["7B"][0]["bytes"] == price(prefill_plan(parse("SM2+ScFuFFN"), KNOWN_SHAPES["7B"], 32)).total.bytes
    paths = report.write(tmp_path)
    assert [path.name for path in paths] == ["growth-sizes.png", "growth-answers.png", "growth-contexts.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    assert max(row["context"] for row in report.shapes if row["shape"] == "7B") == 4096
