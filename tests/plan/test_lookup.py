"""Into how many buckets a vocabulary is dealt, and when."""

from __future__ import annotations

from fractions import Fraction
from math import comb

import pytest

from hushlm.plan.cuts import product_bytes
from hushlm.plan.lookup import Buckets, _failure, choose_buckets, fewest_buckets

GPT2 = 50257


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


@pytest.mark.parametrize(
    ("rows", "vocabulary", "width", "count", "slots"),
    [
        (16, GPT2, 768, 15, 4),
        (32, GPT2, 768, 24, 4),
        (64, GPT2, 768, 12, 8),
        (128, GPT2, 960, 20, 8),
        (32, 49152, 576, 24, 4),
        (64, 4096, 480, 5, 16),
        (1024, GPT2, 768, 134, 8),
        (2048, GPT2, 768, 130, 16),
    ],
)
def test_what_is_chosen_is_a_constant_of_the_format(rows: int, vocabulary: int, width: int, count: int, slots: int) -> None:
    """A change here is another `NEEDS_FORMAT` and another `PROTOCOL_VERSION`: what was prepared before would not be what is needed."""
    assert choose_buckets(rows, vocabulary, width) == Buckets(vocabulary, count, slots)


def test_no_choice_hangs_on_the_last_bits_of_a_float() -> None:
    """Both parties find the number of buckets by themselves, on whatever machine: no bound comes near its limit."""
    for ids in (16, *range(32, 2049, 32)):
        for slots in (4, 8, 16, 32):
            count = fewest_buckets(ids, slots)
            for bound in (_failure(ids, slots, count), _failure(ids, slots, count - 1) if (count - 1) * slots >= ids else 0.0):
                assert not bound or abs(bound * 2.0**40 - 1) > 1e-5
