"""Which buckets each token id lies in, by a rule that everybody knows, and which slot of them a prompt's id takes, the client's secret."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, cycle, islice

import numpy as np

from hushlm.config import ModelShape
from hushlm.plan import bucket_length
from hushlm.plan.lookup import Buckets, choose_buckets
from hushlm.private.program.drafts import Guess

__all__ = [
    "PlacementError",
    "bucket_ids",
    "bucket_pairs",
    "check_placement",
    "kept_places",
    "place_ids",
    "placed_guesses",
    "prompt_buckets",
]


class PlacementError(ValueError):
    """A prompt's ids do not fit the buckets in which they are looked up. Nothing that depends on the prompt has been sent."""


@lru_cache(maxsize=16)
def bucket_pairs(buckets: Buckets) -> np.ndarray:
    """The two buckets of every id, (vocabulary, 2): ids in the order of their hashes go to one pair of buckets after the other."""
    vocabulary = buckets.vocabulary
    order = sorted(range(vocabulary), key=lambda token: hashlib.sha256(b"%d" % token).digest())
    pairs = np.empty((vocabulary, 2), np.int64)
    pairs[order] = list(islice(cycle(combinations(range(buckets.count), 2)), vocabulary))
    return pairs


@lru_cache(maxsize=16)
def bucket_ids(buckets: Buckets) -> tuple[np.ndarray, ...]:
    """The ids of each bucket, ascending; at most `columns` of them."""
    pairs = bucket_pairs(buckets)
    return tuple(np.flatnonzero((pairs == bucket).any(1)) for bucket in range(buckets.count))


def place_ids(ids: tuple[int, ...], buckets: Buckets) -> dict[int, tuple[int, int, int]]:
    """A bucket, a slot of it and a column of it for every id, each id once.

    Raises:
        PlacementError: if they do not fit, which has a probability below 2^-40 for ids that were not chosen to that end.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    distinct = np.unique(np.asarray(ids, np.int64))
    allowed = (bucket_pairs(buckets)[distinct][:, :, None] * buckets.slots + np.arange(buckets.slots)).reshape(-1, 2 * buckets.slots)
    starts = np.arange(len(distinct) + 1) * allowed.shape[1]
    graph = csr_array((np.ones(allowed.size, np.int8), allowed.reshape(-1), starts), shape=(len(distinct), buckets.places))
    places = maximum_bipartite_matching(graph, perm_type="column")
    if (places < 0).any():
        raise PlacementError(
            f"The prompt's {len(distinct)} different tokens do not fit the {buckets.count} buckets where prepared answers look them "
            "up, which happens to one prompt in 2^40 unless it was written to that end: change a word of it."
        )
    members, found = bucket_ids(buckets), {}
    for token, place in zip(distinct.tolist(), places.tolist(), strict=True):
        bucket, slot = divmod(place, buckets.slots)
        found[token] = (bucket, slot, int(np.searchsorted(members[bucket], token)))
    return found


kept_places = lru_cache(maxsize=1)(place_ids)
"""The same, and the last result is kept: a worker has it made before it tells the peer anything, so that its time cannot be seen. For
processes that live no longer than the question."""


def prompt_buckets(prompt_length: int, shape: ModelShape) -> Buckets | None:
    """The buckets in which a prompt of this length, rounded up, is looked up; None where it is not."""
    return choose_buckets(bucket_length(prompt_length, shape.context), shape.vocabulary, shape.width)


def check_placement(prompt_tokens: Sequence[int], shape: ModelShape) -> None:
    """Make sure that a prepared answer can look a prompt up, before anything of it is used.

    Raises:
        PlacementError: as `place_ids`.
    """
    dealt = prompt_buckets(len(prompt_tokens), shape)
    if dealt is not None:
        place_ids(tuple(prompt_tokens), dealt)


def placed_guesses(guess: Guess, vocabulary: int, width: int) -> Guess:
    """The same guesses, without those that a pass could not look up beside the last known token."""

    def placed(tokens: Sequence[int], count: int) -> list[int]:
        found, dealt = list(guess(tokens, count)), choose_buckets(count + 1, vocabulary, width)
        while dealt is not None and found:
            try:
                place_ids((tokens[-1], *found), dealt)
                break
            except PlacementError:
                found.pop()
        return found

    return placed
