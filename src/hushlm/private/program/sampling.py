"""Choosing the next token at the client, from what was revealed to it. The server takes no part in it and learns nothing of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.token_answer import TokenAnswer

__all__ = ["Sampling"]


class Sampling(BaseModel):
    """How the client chooses the token to go on with.

    Attributes:
        temperature: with 0 the token of the largest logit is taken. Above 0 a token is drawn with probability
            softmax(logit / temperature), among all tokens or among the K whose logits are revealed.
        top_p: a token is drawn only among the most likely ones that reach this probability together (nucleus sampling,
            arXiv 1904.09751). Where only the K largest logits are revealed, the probabilities are those among these K.
        seed: the seed of the draws. The same seed, prompt and logits give the same answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    temperature: float = Field(default=0.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)

    def chooser(self, reveal: RevealPolicy) -> Callable[[TokenAnswer], int]:
        """A function that returns the id of the token to go on with, from what was revealed.

        Raises:
            ValueError: if a token is to be drawn although only tokens are revealed, so that there is nothing to draw from.
        """
        if self.temperature > 0 and reveal.kind in ("candidates", "token"):
            raise ValueError("Sampling needs logits at the client: add --reveal topk:K or --reveal logits, or leave the temperature at 0.")
        random = np.random.default_rng(self.seed)

        def choose(answer: TokenAnswer) -> int:
            ids, logits = _revealed(answer)
            if self.temperature == 0:
                return int(ids[logits.argmax()])
            weights = np.exp((logits - logits.max()) / self.temperature)
            probabilities = _nucleus(weights / weights.sum(), self.top_p)
            return int(random.choice(ids, p=probabilities))

        return choose


def _nucleus(probabilities: np.ndarray, top_p: float) -> np.ndarray:
    """The largest probabilities, as few as reach `top_p` together, scaled so that their sum is 1; all others become 0."""
    if top_p == 1:
        return probabilities
    order = np.argsort(-probabilities, kind="stable")
    kept = order[: np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1]
    nucleus = np.zeros_like(probabilities)
    nucleus[kept] = probabilities[kept]
    return nucleus / nucleus.sum()


def _revealed(answer: TokenAnswer) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the tokens whose logits were revealed, and these logits in float64."""
    if answer.top is not None:
        ids, logits = zip(*answer.top, strict=True)
        return np.array(ids), np.array(logits, np.float64)
    assert answer.logits is not None
    return np.arange(len(answer.logits)), np.asarray(answer.logits, np.float64)
