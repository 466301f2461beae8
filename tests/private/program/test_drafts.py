"""Guessed tokens: however good or bad the guesses are, the answer is the one without guesses, in as few passes as they allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.private.models import SMALL
from tests.private.prepared.answers import Exported, exported

from hushlm.private.engine import Traffic
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.drafts import Draft, Guess, accepted, look_up, padded_guesses
from hushlm.private.program.generate import PrivateGenerator

SHAPE = replace(SMALL, context=96)
NAMES = ["SM2+R", "SM2(th)+LN+R", "NeoX(SM2+LN+R)", "SM+LN+G"]
TOKENS = 20


def answer(
    export: Exported, prompt: list[int], draft: Draft | None = None, reveal: str = "token", tokens: int = TOKENS
) -> tuple[list[int | None], int]:
    """The tokens of the reference in float64, and how many passes they took."""
    passes = 0

    def count(step: object, index: int, steps: int, traffic: Traffic) -> None:
        nonlocal passes
        passes += index == 0

    generator = PrivateGenerator(ReferenceBackend(), export.description, export.weights)
    found = generator.generate(prompt, len(prompt), tokens, RevealPolicy.parse(reveal), count, draft=draft)
    return [each.token for each in found], passes


def told(count: int | None) -> tuple[int, Traffic]:
    assert count is not None
    return count, Traffic()


def from_the_answer(prompt: list[int], tokens: Sequence[int | None], wrong_from: int, vocabulary: int) -> Guess:
    """Guesses that are right up to one place in each pass and wrong after it."""
    whole = [*prompt, *(int(token) for token in tokens if token is not None)]

    def guess(known: Sequence[int], count: int) -> list[int]:
        right = (whole + [0] * count)[len(known) : len(known) + count]
        return right[:wrong_from] + [(token + 1) % vocabulary for token in right[wrong_from:]]

    return guess


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [5, 30])
def test_answers_do_not_depend_on_guesses(name: str, length: int) -> None:
    _, export = exported(name, SHAPE)
    prompt = np.random.default_rng(length).integers(0, SHAPE.vocabulary, length).tolist()
    plain, passes = answer(export, prompt)
    assert passes == TOKENS
    for right, wanted in ((0, TOKENS), (1, 1 + -(-(TOKENS - 1) // 2)), (3, 1 + -(-(TOKENS - 1) // 4))):
        guess = from_the_answer(prompt, plain, right, SHAPE.vocabulary)
        for reveal in ("token", "logits"):
            assert answer(export, prompt, Draft(3, told, guess), reveal) == (plain, wanted), (right, reveal)
    tokens, passes = answer(export, prompt, Draft(5, told, look_up))
    assert tokens == plain
    assert passes <= TOKENS


def test_what_cannot_be_checked_is_refused() -> None:
    _, export = exported("SM2+R", SHAPE)
    with pytest.raises(ValueError, match="no room in the context of 96 for 5 guesses"):
        answer(export, [1] * 72, Draft(5, told, look_up))
    with pytest.raises(ValueError, match="answer greedily"):
        answer(export, [1, 2, 3], Draft(2, told, look_up), "topk:4")
    with pytest.raises(ValueError, match="between 1 and"):
        Draft(0, told, look_up)
    with pytest.raises(ValueError, match="outside 0 to"):
        answer(export, [1, 2, 3], Draft(2, told, lambda tokens, count: [SHAPE.vocabulary] * count))
    with pytest.raises(ConnectionError, match="brought 4 tokens"):
        answer(export, [1, 2, 3], Draft(2, lambda count: (4, Traffic()), look_up))


def test_the_look_up_takes_what_came_after_the_longest_latest_match() -> None:
    assert look_up([1, 2, 3, 9, 1, 2, 3, 8, 7, 2, 3], 2) == [8, 7]
    assert look_up([5, 6, 7, 5, 6], 4) == [7, 5, 6]
    assert look_up([1, 2, 3], 2) == []
    assert look_up([4], 2) == []


def test_guesses_are_padded_and_accepted_up_to_the_first_wrong_one() -> None:
    assert padded_guesses(look_up, [1, 2, 3], 2, 10) == [3, 3]
    assert padded_guesses(lambda tokens, count: range(9), [1], 2, 10) == [0, 1]
    assert accepted([4, 5, 6], [4, 5, 7, 8], 9) == [4, 5, 7]
    assert accepted([4, 5, 6], [3, 5, 7, 8], 9) == [3]
    assert accepted([4, 5], [4, 5, 6], 9) == [4, 5, 6]
    assert accepted([4, 5], [4, 5, 6], 2) == [4, 5]
