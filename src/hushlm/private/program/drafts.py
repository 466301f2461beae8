"""Guesses of the next tokens, made by the client, that one private pass checks all at once.

A pass over the last known token and k guesses predicts a token after each of them. The first prediction is the answer's next token; as long
as a guess equals the prediction before it, the prediction after it is the answer's next token, too. So every pass brings one to k + 1
tokens, and they are those that single passes would have brought, one by one (speculative decoding, arXiv 2211.17192, greedy).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hushlm.private.engine.traffic import Traffic

__all__ = ["MOST_GUESSED", "Draft", "Guess", "accepted", "look_up", "padded_guesses"]

Guess = Callable[[Sequence[int], int], Sequence[int]]
"""From all tokens so far, prompt and answer, and a number k: k guesses of what comes next, or fewer."""

MOST_GUESSED = 31
"""Guesses in a pass, at most: with the known token a whole bucket."""

LONGEST_MATCH = 4


@dataclass(frozen=True)
class Draft:
    """How an answer is guessed.

    Attributes:
        guesses: of each pass, the same at both parties.
        tell: with how many tokens a pass brought at the client and None at the server, returns it at both, and what that moved.
        guess: at the client.

    Raises:
        ValueError: if there are too many guesses or none.
    """

    guesses: int
    tell: Callable[[int | None], tuple[int, Traffic]]
    guess: Guess

    def __post_init__(self) -> None:
        if not 1 <= self.guesses <= MOST_GUESSED:
            raise ValueError(f"{self.guesses} guesses in a pass cannot be checked: give between 1 and {MOST_GUESSED}.")


def look_up(tokens: Sequence[int], count: int) -> list[int]:
    """What came after the latest earlier place where the last tokens stood, the longest match of up to `LONGEST_MATCH` tokens first.

    Texts repeat themselves: names, quotations, code. Where nothing matches there is no guess.
    """
    known = list(tokens)
    for length in range(min(LONGEST_MATCH, len(known) - 1), 0, -1):
        tail = known[-length:]
        for start in range(len(known) - length - 1, -1, -1):
            if known[start : start + length] == tail:
                return known[start + length : start + length + count]
    return []


def padded_guesses(guess: Guess, tokens: Sequence[int], count: int, vocabulary: int) -> list[int]:
    """`count` guesses; where there are fewer, the last token stands for them, which is checked as any guess is.

    Raises:
        ValueError: if a guess is outside the vocabulary.
    """
    found = [int(token) for token in guess(tokens, count)][:count]
    if not all(0 <= token < vocabulary for token in found):
        raise ValueError(f"A guessed token is outside 0 to {vocabulary - 1}: was it made by a model with another tokenizer?")
    return found + [tokens[-1]] * (count - len(found))


def accepted(guesses: Sequence[int], predictions: Sequence[int], most: int) -> list[int]:
    """Of the predictions after the known token and after each guess those that belong to the answer, at most `most` of them."""
    right = 0
    while right < len(guesses) and guesses[right] == predictions[right]:
        right += 1
    return list(predictions[: right + 1])[:most]
