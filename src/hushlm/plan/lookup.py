"""Looking up a prompt's rows of the embedding table without a one-hot row of the whole vocabulary for each of them.

The ids of the vocabulary are dealt into buckets, every id into two, in a way that both parties know. The client places each id of its
prompt, once however often it occurs, into a slot of one of its two buckets. A slot is a one-hot row over its bucket alone, so that all of
them together are a fraction of (prompt, vocabulary); slots that stay empty are masked as all others are. Which slot a row of the prompt
takes its numbers from is the client's secret too: a second, small product picks them.

The idea is that of batch codes for private information retrieval (Angel, Chen, Laine and Setty, "PIR with compressed queries and amortized
query processing", IEEE S&P 2018), with several slots a bucket; that two choices and a few slots nearly fill all of them is due to
Dietzfelbinger and Weidling ("Balanced allocation and dictionaries with tightly packed constant size bins", 2007).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from hushlm.plan.cuts import product_bytes
from hushlm.plan.engine_tiles import ceil_div
from hushlm.plan.protocol_settings import SMALL_WORD_BYTES

__all__ = ["Buckets", "choose_buckets", "fewest_buckets"]

FAILURE_BITS = 40
"""A prompt that cannot be placed has a probability of less than 2^-40."""

SLOT_CHOICES = (4, 8, 16, 32)
"""Slots a bucket that are looked at: more mean more work and fuller ciphertexts. With two there would have to be hundreds of buckets."""


@dataclass(frozen=True)
class Buckets:
    """How a vocabulary is dealt.

    Attributes:
        vocabulary: how many ids there are.
        count: of buckets.
        slots: ids of one prompt that a bucket takes.
    """

    vocabulary: int
    count: int
    slots: int

    @property
    def columns(self) -> int:
        """The ids of the fullest bucket, about 2 vocabulary / count: every pair of buckets shares as many ids as any other, but for one."""
        return min(self.vocabulary, (self.count - 1) * ceil_div(self.vocabulary, math.comb(self.count, 2)))

    @property
    def places(self) -> int:
        """Slots of all buckets together."""
        return self.count * self.slots


@lru_cache(maxsize=4096)
def choose_buckets(rows: int, vocabulary: int, width: int) -> Buckets | None:
    """The buckets with which preparing and looking up `rows` rows moves the fewest bytes, or None where whole one-hot rows move fewer."""
    best, least = None, product_bytes(rows, vocabulary, width) + SMALL_WORD_BYTES * rows * vocabulary
    for slots in SLOT_CHOICES:
        if slots >= rows:
            break
        buckets = Buckets(vocabulary, fewest_buckets(rows, slots), slots)
        moved = buckets.count * product_bytes(slots, buckets.columns, width)
        moved += product_bytes(rows, buckets.places, width)
        moved += SMALL_WORD_BYTES * (buckets.places * (buckets.columns + width + rows))
        if moved < least:
            best, least = buckets, moved
    return best


@lru_cache(maxsize=4096)
def fewest_buckets(ids: int, slots: int) -> int:
    """The fewest buckets of so many slots in which the placement of so many different ids fails with less than 2^-40.

    By Hall's theorem it fails only if some s buckets are both choices of more than s `slots` ids. The bound is the sum over all sets of
    buckets, each id's pair being any of C(buckets, 2) with the same probability.
    """
    count = max(2, ceil_div(ids, slots))
    while _failure(ids, slots, count) > 2.0**-FAILURE_BITS:
        count += 1
    return count


def _failure(ids: int, slots: int, count: int) -> float:
    """The bound; where it is above 2^-40, some part of it that is."""
    total, most = 0.0, 2.0**-FAILURE_BITS
    for size in range(2, count):
        n, inside = slots * size + 1, math.comb(size, 2) / math.comb(count, 2)
        if n > ids or total > most:
            break
        log_term = _log_choose(count, size) + _log_choose(ids, n) + n * math.log(inside) + (ids - n) * math.log1p(-inside)
        if log_term > 0.0:
            return math.inf
        term = math.exp(log_term)
        while n <= ids and (n < ids * inside or term > 1e-12 * total):
            total += term
            term *= (ids - n) / (n + 1) * inside / (1 - inside)
            n += 1
    return total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
