"""The public description of a program: its JSON and fingerprint stay what older exports and both parties' folders hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hushlm.architectures import REGISTRY, Architecture
from hushlm.plan import HUSH, PUBLISHED, decode_plan, prefill_plan
from hushlm.private.program.description import describe
from hushlm.private.program.step_programs import step_program
from hushlm.shapes import GPT2_SMALL

ROOT = Path(__file__).parents[3]
BEFORE = json.loads((Path(__file__).parent / "fingerprints.json").read_text())
"""Of GPT-2 small's shape, written by the version that had exported the first programs; never regenerated."""

COUNTED = ("SM+LN+G", "SM+LN+R", "SM+R", "SM2+R", "SM1+R", "SM+ScFuFFN", "SM2+ScFuFFN", "SM1+ScFuFFN")
"""Rows of benchmarks/gpt2_private.py."""


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_the_description_of_every_architecture_is_byte_for_byte_what_it_was(architecture: Architecture) -> None:
    if str(architecture) not in BEFORE:
        pytest.skip("added after the fingerprints were written")
    description = describe(architecture.without_regulariser(), GPT2_SMALL)
    assert description.fingerprint == BEFORE[str(architecture)]["fingerprint"]
    written = description.model_dump_json(indent=2).encode()
    assert hashlib.sha256(written).hexdigest() == BEFORE[str(architecture)]["json_sha256"]


def test_the_counts_of_gpt2_are_found_under_the_keys_that_they_were_written_with() -> None:
    """The keys are reprs of programs: a renamed operation or field would lose hours of counting."""
    counts = json.loads((ROOT / "results" / "gpt2-private-counts.json").read_text())["counts"]
    named = [architecture for architecture in REGISTRY if str(architecture) in COUNTED]
    assert len(named) == len(COUNTED)
    plans = [prefill_plan(architecture, GPT2_SMALL, 128, None, rewrites) for architecture in named for rewrites in (HUSH, PUBLISHED)]
    plans += [decode_plan(architecture, GPT2_SMALL, 128) for architecture in named]
    programs = {repr(step_program(plan, step).key) for plan in plans for step in plan.steps}
    written = {key.rpartition(" squarings=")[0] for key in counts}
    # Some products are counted one row block at a time, under a smaller number of rows.
    assert {key for key in programs if "(Project(rows=128" not in key and "(Embed(rows=128" not in key} <= written
    surrounded = {key.rpartition(")), ")[2] for key in programs if ")), " in key}
    assert surrounded == {"'query_key_value')", "'query')", "'key_value')", "True, 'residual')", "False, 'residual')"}
    assert surrounded == {key.rpartition(")), ")[2] for key in written if ")), " in key}
