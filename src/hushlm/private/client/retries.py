"""When a client asks again by itself: only where that is safe."""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["Retries"]


@dataclass(frozen=True)
class Retries:
    """How often a client asks again that found no server, or one without a place.

    Only then: nothing has left the client but the TLS handshake and, at most, a request with lengths. Once the session was accepted a
    question is never repeated by itself. Its shares have moved, so a further session would show the server a second time, with the
    same lengths and a moment later, that one prompt is insisted on, and a server could bring that about at will by breaking
    sessions; each session that samples would open further logits; and minutes of work of both machines would be spent without being
    asked for. That decision is the user's.

    Attributes:
        limit: how many further attempts are made; 0 gives up at once.
        first_seconds: the pause before the first of them. Each later pause is twice as long. A random part of it is waited, between half
            and all, so that many clients do not come back at once.
        longest_seconds: the longest pause; a server that wishes a longer one is not asked again.

    Raises:
        ValueError: for negative numbers.
    """

    limit: int = 0
    first_seconds: float = 1.0
    longest_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.first_seconds < 0 or self.longest_seconds < 0:
            raise ValueError("The number of retries and their pauses must not be negative.")

    def pause_seconds(self, attempt: int, wished_seconds: float | None, chance: random.Random) -> float | None:
        """How long to wait before a further attempt; None where there is none.

        Args:
            attempt: number of the further attempt, counted from 0.
            wished_seconds: the pause that the server asked for, if it did; the pause is no shorter.
            chance: the random generator that scatters the pauses.
        """
        wished = wished_seconds or 0.0
        if attempt >= self.limit or wished > self.longest_seconds:
            return None
        grown = min(self.first_seconds * 2.0 ** min(attempt, 60), self.longest_seconds)
        return max(grown * chance.uniform(0.5, 1.0), wished)
