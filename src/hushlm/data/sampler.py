"""Windows of tokens: random ones for training, resumable from a few integers; fixed ones for evaluation.

Legend: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from hushlm.data.store import Tokens

__all__ = ["Sampler", "fixed_batches"]


class Sampler:
    """Endless batches of random windows.

    The windows of batch i are drawn by Philox, a counter-based generator, keyed with (seed, i): the position i is the whole
    state, and batch i is the same whether or not the batches before it were drawn.
    """

    def __init__(self, tokens: Tokens, batch: int, context: int, seed: int) -> None:
        """
        Args:
            tokens: token ids, one dimension.
            batch: B.
            context: T.
            seed: decides the order.

        Raises:
            ValueError: if there are not T + 1 tokens.
        """
        _check(tokens, context)
        self._tokens, self._batch, self._context, self._seed, self._position = tokens, batch, context, seed, 0

    def next(self, rows: slice = slice(None)) -> torch.Tensor:
        """The next batch, int64 (B, T+1): inputs are [:, :-1], targets [:, 1:].

        Args:
            rows: the sequences wanted of it, all by default; the position moves on alike.
        """
        generator = np.random.Generator(np.random.Philox(key=np.array([self._seed, self._position], dtype=np.uint64)))
        starts = generator.integers(0, len(self._tokens) - self._context, size=self._batch)
        self._position += 1
        return _windows(self._tokens, starts[rows], self._context)

    def state(self) -> dict[str, int]:
        """Everything that decides the batches to come, plain integers."""
        return {
            "position": self._position,
            "seed": self._seed,
            "batch": self._batch,
            "context": self._context,
            "tokens": len(self._tokens),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state()` was taken.

        Raises:
            ValueError: if the state belongs to another sampler: other seed, batch, context or corpus size.
        """
        here = self.state()
        for name in ("seed", "batch", "context", "tokens"):
            if state.get(name) != here[name]:
                raise ValueError(
                    f"The saved data order has {name} {state.get(name)}, and this run has {here[name]}: use the saved run's settings."
                )
        position = state.get("position")
        if not isinstance(position, int) or position < 0:
            raise ValueError(f"The saved data order has position {position!r}, which is not a count of batches.")
        self._position = position


def fixed_batches(tokens: Tokens, batch: int, context: int, count: int) -> Iterator[torch.Tensor]:
    """Evenly spaced windows, the same on every call, none of whose targets is predicted twice.

    Args:
        tokens: token ids, one dimension.
        batch: B.
        context: T.
        count: batches at most; fewer where the tokens run out, and then the last one may be smaller than B.

    Returns: int64 batches (B, T+1).

    Raises:
        ValueError: if there are not T + 1 tokens.
    """
    _check(tokens, context)
    available = (len(tokens) - 1) // context
    total = min(batch * count, available)
    starts = np.arange(total, dtype=np.int64) * available // total * context
    return (_windows(tokens, starts[i : i + batch], context) for i in range(0, total, batch))


def _windows(tokens: Tokens, starts: np.ndarray, context: int) -> torch.Tensor:
    return torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))


def _check(tokens: Tokens, context: int) -> None:
    if len(tokens) < context + 1:
        raise ValueError(f"The split has {len(tokens)} tokens, too few for a context of {context}: use more text, or a shorter context.")
