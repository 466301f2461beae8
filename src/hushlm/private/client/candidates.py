"""Candidates: words that a prompt may go on with, as the tokens that they are after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.answer import PrivateAnswer
from hushlm.private.program.description import MOST_CANDIDATES, RevealPolicy

__all__ = ["candidate_tokens", "named_answer", "policy_of"]

END_CHARACTERS = 1000
"""Of a prompt: more of it has no part in how a word after it is cut into tokens."""

Added = list[tuple[str, list[int]]]
"""Words, each with the tokens that it adds to a prompt."""

OPENING = "([{<\"'`“‘«"
"""What no space stands after."""


def candidate_tokens(tokenizer: Tokenizer, prompt: str, candidates: Sequence[str]) -> dict[int, str]:
    """The candidates by the token that each is after the prompt.

    A space is put between prompt and candidate where a word would have one: not after white space or something that opens, and not before
    a candidate that begins with white space. Where that does not make every candidate one token, all are tried as they are.

    Args:
        tokenizer: the model's.
        prompt: the text before them.
        candidates: at least 2.

    Raises:
        ValueError: one sentence, if there are too few or too many, or one is not exactly one token, or two are the same one.
    """
    if not 2 <= len(candidates) <= MOST_CANDIDATES:
        raise ValueError(f"A question has 2 to {MOST_CANDIDATES} candidates, not {len(candidates)}.")
    if not all(word.strip() for word in candidates):
        raise ValueError("A candidate is empty: give words that the prompt may go on with.")
    end = prompt[-END_CHARACTERS:]
    before = tokenizer.encode(end).ids
    space = "" if not end or end[-1].isspace() or end[-1] in OPENING else " "
    spaced = [word if word[:1].isspace() else space + word for word in candidates]
    attempts = [[(word, _added(tokenizer, end, before, word)) for word in words] for words in (spaced, candidates)]
    # The first that makes every candidate one token, or else the one that makes most.
    added = min(attempts, key=_failures)
    if _failures(added):
        raise ValueError(_not_one_token(added, end))
    named: dict[int, str] = {}
    for (_, (token,)), candidate in zip(added, candidates, strict=True):
        if token in named:
            raise ValueError(f"The candidates {named[token]!r} and {candidate!r} are the same token: give each once.")
        named[token] = candidate
    return named


def _added(tokenizer: Tokenizer, end: str, before: list[int], word: str) -> list[int]:
    """The tokens that a word adds to those of the text before it; none if it changes those."""
    ids = tokenizer.encode(end + word).ids
    return ids[len(before) :] if ids[: len(before)] == before else []


def _failures(added: Added) -> int:
    return sum(len(ids) != 1 for _, ids in added)


def _not_one_token(added: Added, end: str) -> str:
    word, ids = next((word, ids) for word, ids in added if len(ids) != 1)
    if not ids:
        hint = "leave out the white space at the prompt's end" if end and end[-1].isspace() else "end the prompt where a word ends"
        return f"The candidate {word!r} becomes one token together with the end of the prompt: {hint}."
    return f"The candidate {word!r} is {len(ids)} tokens after this prompt, and must be one: give a shorter or more usual word."


def policy_of(named: dict[int, str]) -> RevealPolicy:
    """What reveals the likeliest of them and nothing else."""
    return RevealPolicy(kind="candidates", candidates=tuple(sorted(named)))


def named_answer(answer: PrivateAnswer, named: dict[int, str]) -> PrivateAnswer:
    """The answer of one token, with the candidate that it is."""
    return replace(answer, candidate=named[answer.tokens[0]])
