"""Predicted equals counted for prepared answers: material of a batch, every pass, what is kept, and set-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from hushlm.architectures import Architecture, parse
from hushlm.config import ModelShape
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.prepared.calls import calls_with
from hushlm.cost.prepared.offline import material_bytes, offline_calls
from hushlm.cost.prepared.online import online_steps
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.stocks import Session
from hushlm.plan import ProtocolSettings, bucket_length, decode_plan, prefill_plan
from hushlm.plan.needs import LookUpNeed, answer_needs
from hushlm.private.program.description import RevealPolicy
from tests.cost.prepared_counted import counted_answers
from tests.private.models import MANY_IDS, SMALL
from tests.private.prepared.answers import Exported, exported
from tests.private.prepared.covering import covering_architectures, deep_enough

pytest.importorskip("spu")
pytestmark = pytest.mark.two_party

LARGER = ModelShape(layers=2, heads=4, width=64, context=64, vocabulary=256)
SPREAD = 0.08
"""Some layers of larger weights without normalisation leave the small ring."""
NEW_TOKENS, ANSWERS = 3, 2
CALLS = calls_with(load_constants().values, load_online_constants().values, ProtocolSettings())
REFILL = load_constants().values.refill
# A ciphertext's size varies with its random content, see `test_predicted`.
NOISE, NOISE_BYTES = 0.005, 300


def check(architectures: Sequence[Architecture], shape: ModelShape, reveal: str, others: Sequence[Exported] = ()) -> None:
    """Two answers prepared together, one of them given: bytes to 0.5%, messages exactly, whole refills of stocks apart.

    `others` are asked as well, by the same two processes.
    """
    policy = RevealPolicy.parse(reveal)
    exports = [*(exported(str(each), deep_enough(each, shape), spread=SPREAD)[1] for each in architectures), *others]
    length = shape.context - 10
    prompt = [i % shape.vocabulary for i in range(length)]
    stocks, first = Session(CALLS.large), True
    for export, (client, server) in zip(exports, counted_answers(exports, prompt, NEW_TOKENS, ANSWERS, policy), strict=True):
        name, described = export.description.architecture, export.description
        architecture, sizes, rewrites = described.parsed_architecture, described.shape, described.rewrites
        needs = answer_needs(architecture, sizes, bucket_length(length, sizes.context), NEW_TOKENS, rewrites)
        assert (client.kept_bytes, server.kept_bytes) == material_bytes(needs), name
        if first:
            assert CALLS.set_up().total_bytes == pytest.approx(client.set_up.total_bytes, rel=NOISE)
            first = False

        calls = [stocks.run(call) for _, call in offline_calls(needs, ANSWERS, CALLS.large, rewrites.encoded_bytes)]
        made = sum(calls, Exchange())
        assert made.total_bytes == pytest.approx(client.offline.total_bytes, rel=NOISE), name
        assert (made.forward_messages, made.back_messages) == (client.offline.sent_messages, client.offline.received_messages), name

        revealed, opened = policy.operation(sizes.vocabulary), dict[str, int]()
        keys = [bucket_length(length + index, sizes.context) for index in range(1, NEW_TOKENS)]
        plans = [prefill_plan(architecture, sizes, bucket_length(length, sizes.context), revealed, rewrites)]
        plans += [decode_plan(architecture, sizes, count, revealed, rewrites) for count in keys]
        for plan, counted in zip(plans, client.passes, strict=True):
            # Stocks of transfers are two rings' here; whole refills are told apart by their size.
            steps = [replace(step, forward_transfers=(), back_transfers=()) for _, step in online_steps(plan, opened, CALLS)]
            bare = sum(map(stocks.run, steps), Exchange())
            refills = round((counted.total_bytes - bare.total_bytes) / REFILL)
            assert 0 <= refills <= 6, (name, counted.total_bytes, bare.total_bytes)
            moved = bare.total_bytes + refills * REFILL
            assert moved == pytest.approx(counted.total_bytes, rel=NOISE, abs=NOISE_BYTES), name
            messages = bare.forward_messages + bare.back_messages + 2 * refills
            assert messages == counted.sent_messages + counted.received_messages, name


def test_a_few_architectures_and_a_prompt_looked_up_in_buckets() -> None:
    assert any(isinstance(need, LookUpNeed) for need in answer_needs(parse("SM2+R"), MANY_IDS, 32, 1)[0])
    names = ("SM2+R", "SM+LN+G", "EReg(SM(t)+ScFuFFN)")
    check([parse(name) for name in names], SMALL, "token", [exported("SM2+R", MANY_IDS, spread=SPREAD)[1]])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_operation_after_every_other_that_it_follows() -> None:
    check(covering_architectures(SMALL), SMALL, "token")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_kind_of_step_in_a_larger_shape() -> None:
    check([parse(name) for name in ("SM2+ScFuFFN", "SM+LN+G", "NeoX(SM2(th)+LN+R)", "SM2+B")], LARGER, "logits")
