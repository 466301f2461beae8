"""How a vocabulary is dealt into buckets, and when."""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.plan.cuts import product_bytes
from hushlm.plan.lookup import Buckets, bucket_ids, bucket_pairs, choose_buckets, fewest_buckets

GPT2 = 50257


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
    # Ids in the order of the SHA-256 of their decimals, go to (0, 1), (0, 2), (1, 2) and so on.
    assert [sha256(b"%d" % token).digest() for token in ORDER] == sorted(sha256(b"%d" % token).digest() for token in range(10))
    pairs = bucket_pairs(Buckets(10, 3, 4)).tolist()
    assert [pairs[token] for token in ORDER] == [[0, 1], [0, 2], [1, 2]] * 3 + [[0, 1]]


ORDER = [9, 8, 4, 3, 0, 1, 7, 2, 6, 5]


def test_buckets_fail_as_rarely_as_is_said() -> None:
    # By Hall's theorem, the sum over all sets of buckets in whole fractions, for the two numbers about the limit.
    def bound(ids: int, slots: int, count: int) -> Fraction:
        total = Fraction(0)
        for size in range(2, count):
            inside = Fraction(comb(size, 2), comb(count, 2))
            tail = sum(comb(ids, n) * inside**n * (1 - inside) ** (ids - n) for n in range(slots * size + 1, ids + 1))
            total += comb(count, size) * tail
        return total

    for ids, slots in ((32, 8), (64, 16), (128, 8), (128, 16)):
        count = fewest_buckets(ids, slots)
        assert count * slots >= ids
        assert bound(ids, slots, count) <= Fraction(1, 2**40) < bound(ids, slots, count - 1) or (count - 1) * slots < ids


def test_where_buckets_are_taken() -> None:
    assert choose_buckets(128, GPT2, 768) == Buckets(GPT2, 20, 8)
    # A further token, a short vocabulary: whole rows move less.
    assert choose_buckets(1, GPT2, 768) is None
    assert choose_buckets(128, 256, 768) is None
    for rows, vocabulary, width in ((32, GPT2, 768), (128, GPT2, 1536), (64, 4096, 480)):
        dealt = choose_buckets(rows, vocabulary, width)
        assert dealt is not None
        offline = dealt.count * product_bytes(dealt.slots, dealt.columns, width) + product_bytes(rows, dealt.places, width)
        online = 4 * dealt.places * (dealt.columns + rows + width)
        assert offline + online < product_bytes(rows, vocabulary, width) + 4 * rows * vocabulary
        assert dealt.places * dealt.columns < rows * vocabulary, "and take less work"


@pytest.mark.parametrize(("count", "slots"), [(3, 2), (5, 4)])
def test_sets_of_buckets_that_are_too_small_are_the_only_reason_to_fail(count: int, slots: int) -> None:
    """What the bound rests on, tried on every set: as many ids as fit any set of buckets can be placed (Hall)."""
    pytest.importorskip("scipy")
    from hushlm.private.prepared.placing import PlacementError, place_ids

    dealt, random = Buckets(400, count, slots), np.random.default_rng(0)
    pairs, placed = bucket_pairs(dealt), 0
    for _ in range(300):
        ids = random.choice(400, dealt.places, replace=False)
        sets = [chosen for size in range(2, count + 1) for chosen in combinations(range(count), size)]
        inside = [(np.isin(pairs[ids], chosen).all(1).sum(), len(chosen)) for chosen in sets]
        fits = all(number <= slots * size for number, size in inside)
        try:
            place_ids(ids.tolist(), dealt)
        except PlacementError:
            assert not fits
        else:
            assert fits
            placed += 1
    assert 0 < placed < 300
