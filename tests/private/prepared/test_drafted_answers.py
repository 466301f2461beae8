"""Guessed tokens between two processes: the answers are those without guesses, and a pass of several rows moves what the formula says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.private.models import SMALL
from tests.private.prepared.answers import Exported, exported
from tests.private.prepared.formula import equals_formula

from hushlm.calibration.both_parties import stream_both
from hushlm.cost.network import WAN
from hushlm.plan import Reveal, decode_plan, prefill_plan
from hushlm.private.engine import Engine, EngineSettings, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.drafts import look_up

pytest.importorskip("spu")
pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(1800)]

TOKENS, GUESSES = 7, 2
PROMPT = np.random.default_rng(1).integers(0, SMALL.vocabulary, 18).tolist()

Found = tuple[list[int | None], list[dict[str, Traffic]], int]


def _answers(engine: Engine, exports: Sequence[Exported]) -> Iterator[Found]:
    """For every model: the answer without guesses, with a look-up, with guesses all right, and all wrong."""
    desk = Desk(engine, WAN)
    client = desk.is_client
    for number, export in enumerate(exports):
        generator = PreparedGenerator(desk, export.description, None if client else export.weights)
        if not number:
            generator.set_up()
        [plain], _ = generator.prepare(len(PROMPT), TOKENS, 1)
        drafted, _ = generator.prepare(len(PROMPT), TOKENS, 3, draft=GUESSES)
        whole: list[int] = []

        def right(known: Sequence[int], count: int) -> list[int]:
            return (whole + [0] * count)[len(known) : len(known) + count]  # noqa: B023

        def wrong(known: Sequence[int], count: int) -> list[int]:
            return [(token + 1) % SMALL.vocabulary for token in right(known, count)]

        for material, guess in zip((plain, *drafted), (None, look_up, right, wrong), strict=True):
            mine = PROMPT if client else None
            policy = RevealPolicy(kind="logits" if guess is right else "token")
            tokens, passes = [], []
            for each in generator.generate(material, mine, len(PROMPT), TOKENS, policy, guess=guess):
                tokens.append(each.token)
                if each.steps:
                    passes.append({f"{step.layer}.{step.name}": step.traffic for step in each.steps})
            if not whole and client:
                whole = [*PROMPT, *(token for token in tokens if token is not None)]
            yield tokens, passes, material.items_left


def test_answers_are_those_without_guesses() -> None:
    shape = replace(SMALL, context=64)
    exports = [exported(name, shape)[1] for name in ("SM2+R", "NeoX(SM2(th)+LN+R)")]
    found = list(stream_both(_answers, (exports,), EngineSettings()))
    for start in range(0, len(found), 4):
        export = exports[start // 4]
        (plain, *_), _ = found[start]
        assert len(plain) == TOKENS
        passes = []
        for (tokens, steps, left), (of_server, _, _) in found[start : start + 4]:
            assert tokens == plain
            assert of_server == [None] * TOKENS
            assert left == 0
            passes.append(len(steps))
        single, looked_up, right, wrong = passes
        assert (single, right, wrong) == (TOKENS, 1 + -(-(TOKENS - 1) // (GUESSES + 1)), TOKENS)
        assert right <= looked_up <= TOKENS
        (_, steps, _), _ = found[start + 3]
        architecture, rewrites = export.description.parsed_architecture, export.description.rewrites
        reveal, opened = Reveal(shape.vocabulary, "token"), dict[str, int]()
        plans = [prefill_plan(architecture, shape, 32, reveal, rewrites)]
        plans += [decode_plan(architecture, shape, 32, reveal, rewrites, GUESSES + 1)] * (TOKENS - 1)
        assert sum(equals_formula(plan, opened, each, WAN) for plan, each in zip(plans, steps, strict=True)) <= 4
