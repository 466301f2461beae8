"""Which slot each token id of a prompt is looked up in: the client's own business, and its secret."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hushlm.config import ModelShape
from hushlm.plan import bucket_length
from hushlm.plan.lookup import Buckets, bucket_ids, bucket_pairs, choose_buckets

__all__ = ["PlacementError", "check_placement", "place_ids"]


class PlacementError(ValueError):
    """A prompt's ids do not fit the buckets in which they are looked up. Nothing that depends on the prompt has been sent."""


def place_ids(ids: Sequence[int], buckets: Buckets) -> dict[int, tuple[int, int, int]]:
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
            "up, which happens to one prompt in 2^40 unless it was written to that end: change a word of it, or ask without preparation "
            "(`--prepared never`)."
        )
    members, found = bucket_ids(buckets), {}
    for token, place in zip(distinct.tolist(), places.tolist(), strict=True):
        bucket, slot = divmod(place, buckets.slots)
        found[token] = (bucket, slot, int(np.searchsorted(members[bucket], token)))
    return found


def check_placement(prompt_tokens: Sequence[int], shape: ModelShape) -> None:
    """Make sure that a prepared answer can look a prompt up, before anything of it is used.

    Raises:
        PlacementError: as `place_ids`.
    """
    dealt = choose_buckets(bucket_length(len(prompt_tokens), shape.context), shape.vocabulary, shape.width)
    if dealt is not None:
        place_ids(prompt_tokens, dealt)
