"""Which bucket an id lies in and which slot it takes: every id can be found, and nothing but too many ids of few buckets keeps one out."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.config import ModelShape
from hushlm.plan.lookup import Buckets, choose_buckets
from hushlm.private.prepared.placing import PlacementError, bucket_ids, bucket_pairs, check_placement, place_ids, placed_guesses

pytest.importorskip("scipy")


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.integers(2, 30), st.integers(1, 32))
def test_every_id_is_in_two_buckets_and_pairs_of_buckets_share_alike(vocabulary: int, count: int, slots: int) -> None:
    dealt = Buckets(vocabulary, count, slots)
    members, pairs = bucket_ids(dealt), bucket_pairs(dealt)
    assert len(members) == count
    assert max(map(len, members)) <= dealt.columns <= vocabulary
    assert (np.bincount(np.concatenate(members), minlength=vocabulary) == 2).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    for bucket, ids in enumerate(members):
        assert (np.diff(ids) > 0).all()
        assert ((pairs[ids] == bucket).sum(1) == 1).all()
    shares = np.unique(pairs, axis=0, return_counts=True)[1]
    assert shares.max() - (shares.min() if len(shares) == comb(count, 2) else 0) <= 1


def test_both_parties_deal_alike_whatever_their_version_of_numpy() -> None:
    # Ids in the order of the SHA-256 of their decimals go to (0, 1), (0, 2), (1, 2) and so on.
    assert [sha256(b"%d" % token).digest() for token in ORDER] == sorted(sha256(b"%d" % token).digest() for token in range(10))
    pairs = bucket_pairs(Buckets(10, 3, 4)).tolist()
    assert [pairs[token] for token in ORDER] == [[0, 1], [0, 2], [1, 2]] * 3 + [[0, 1]]


ORDER = [9, 8, 4, 3, 0, 1, 7, 2, 6, 5]


@pytest.mark.parametrize(("count", "slots"), [(3, 2), (5, 4)])
def test_sets_of_buckets_that_are_too_small_are_the_only_reason_to_fail(count: int, slots: int) -> None:
    """What the bound rests on, tried on every set: as many ids as fit any set of buckets can be placed (Hall)."""
    dealt, random = Buckets(400, count, slots), np.random.default_rng(0)
    pairs, placed = bucket_pairs(dealt), 0
    for _ in range(300):
        ids = random.choice(400, dealt.places, replace=False)
        sets = [chosen for size in range(2, count + 1) for chosen in combinations(range(count), size)]
        inside = [(np.isin(pairs[ids], chosen).all(1).sum(), len(chosen)) for chosen in sets]
        fits = all(number <= slots * size for number, size in inside)
        try:
            place_ids(tuple(ids.tolist()), dealt)
        except PlacementError:
            assert not fits
        else:
            assert fits
            placed += 1
    assert 0 < placed < 300


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5999), min_size=0, max_size=32))
def test_ids_have_columns_of_their_own_in_one_of_their_buckets(ids: list[int]) -> None:
    dealt = Buckets(6000, 7, 8)
    placed = place_ids(tuple(ids), dealt)
    assert set(placed) == set(ids)
    assert len({(bucket, slot) for bucket, slot, _ in placed.values()}) == len(placed), "a slot is one id's"
    for token, (bucket, slot, column) in placed.items():
        assert bucket in bucket_pairs(dealt)[token]
        assert 0 <= slot < dealt.slots
        assert bucket_ids(dealt)[bucket][column] == token


def test_guesses_that_a_pass_cannot_look_up_are_left_out() -> None:
    """A pass that checks guesses has few rows and few slots: a text that repeats ids of two buckets alone must not break an answer."""
    vocabulary, width, count = 50257, 768, 15
    dealt = choose_buckets(count + 1, vocabulary, width)
    assert dealt is not None
    together = np.flatnonzero((bucket_pairs(dealt) == [0, 1]).all(1)).tolist()
    known, same = together[0], together[1 : count + 1]
    with pytest.raises(PlacementError):
        place_ids((known, *same), dealt)
    guess = placed_guesses(lambda tokens, count: same[:count], vocabulary, width)
    kept = guess([5, known], count)
    assert kept == same[: 2 * dealt.slots - 1]
    assert place_ids((known, *kept), dealt)
    apart = list(range(count))
    assert placed_guesses(lambda tokens, count: apart[:count], vocabulary, width)([known], count) == apart
    # Whole rows take any.
    assert placed_guesses(lambda tokens, count: same[:count], vocabulary, width)([known], 3) == same[:3]


def test_a_prompt_is_checked_in_the_buckets_of_its_length() -> None:
    shape = ModelShape(layers=1, heads=2, width=32, context=64, vocabulary=6000)
    dealt = choose_buckets(32, shape.vocabulary, shape.width)
    assert dealt is not None
    together = np.flatnonzero((bucket_pairs(dealt) == [2, 5]).all(1)).tolist()
    check_placement(together[: 2 * dealt.slots] * 2, shape)
    with pytest.raises(PlacementError):
        check_placement(together[: 2 * dealt.slots + 1], shape)
    check_placement(together[:31], ModelShape(layers=1, heads=2, width=32, context=64, vocabulary=256))
