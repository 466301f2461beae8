"""LLaMA blocks between two processes: private tokens are those in the clear, and each pass moves what was predicted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.private.models import SMALL, arrays, random_model

from hushlm.architectures import Architecture, parse
from hushlm.calibration.both_parties import run_both
from hushlm.cost import price
from hushlm.plan import bucket_length, decode_plan, prefill_plan
from hushlm.private.engine import Engine, Party
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.description import ProgramDescription, describe
from hushlm.private.program.fold import fold_weights
from hushlm.private.program.generate import PrivateGenerator

pytest.importorskip("spu")
pytestmark = [pytest.mark.slow, pytest.mark.two_party]

SHAPE = replace(SMALL, heads=4, key_value_heads=2, explicit_ffn_width=27, rotary_share=1.0, context=40, prefix=1, norm_epsilon=1e-6)
PROMPT, TOKENS = [3, 1, 4, 1, 5, 9, 2, 6] * 3 + [5, 3, 5, 8, 9, 7], 5
"""Of 30 tokens, so that the answer crosses into the next bucket."""


def _answer(engine: Engine, description: ProgramDescription, weights: dict[str, Any]) -> list[tuple[int | None, int]]:
    client = engine.party.name == "CLIENT"
    generator = PrivateGenerator(engine, description, None if client else weights)
    generator.set_up()
    answers = generator.generate(PROMPT if client else None, len(PROMPT), TOKENS)
    return [(answer.token, answer.traffic.total_bytes) for answer in answers]


def simulated(architecture: Architecture, weights: dict[str, Any]) -> PrivateGenerator:
    """The same program in fixed point, in one process and in the clear."""
    description = describe(architecture, SHAPE, simulate=True)
    return PrivateGenerator(EngineBackend(Engine(Party.CLIENT, description.engine, None)), description, weights)


@pytest.mark.parametrize("name", ["Llama(SM3(th)+RMS+SwiQ)", "Llama(SM+RMS+Swi)"])
def test_private_tokens_are_the_models_at_the_predicted_price(name: str) -> None:
    architecture = parse(name)
    model = random_model(architecture, SHAPE, spread=0.15)
    description = describe(architecture, SHAPE)
    weights = fold_weights(arrays(model), architecture, SHAPE, description.rewrites)
    client, server = run_both(_answer, (description, weights), description.engine)
    tokens = [token for token, _ in client]
    assert tokens == [answer.token for answer in simulated(architecture, weights).generate(PROMPT, len(PROMPT), TOKENS)]
    if "SwiQ" in name:  # SiLU's and the exponential's approximations may tip the scales between the logits of a random model
        assert tokens == model.greedy(PROMPT, TOKENS)
    assert [token for token, _ in server] == [None] * TOKENS
    plans = [prefill_plan(architecture, SHAPE, bucket_length(len(PROMPT), SHAPE.context))]
    plans += [decode_plan(architecture, SHAPE, bucket_length(len(PROMPT) + i, SHAPE.context)) for i in range(1, TOKENS)]
    predicted = sum(price(plan, description.engine).total.bytes for plan in plans)
    # A refill or a batch of triples more or less than the steady state's share.
    assert sum(moved for _, moved in client) == pytest.approx(predicted, rel=0.1)
