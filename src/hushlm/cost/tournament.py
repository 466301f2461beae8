"""How the largest of each of many rows is found by comparisons, and the form of it that suits a network.

The numbers of a row are put into groups; within a group every pair is compared, all groups of all rows in one call, and the largest of each
group goes on to the next level. Groups of two take the fewest comparisons and the most levels; larger groups take g (g - 1) / 2
comparisons to rule out g - 1 numbers, and save levels, of which each waits for some nine round trips. The attention kernel also asks which
scores lie above "maximum + clip"; it can ask that of every candidate of the last level in that level's own call of comparisons, because a
score lies above the largest candidate plus a number exactly when it lies above all candidates plus that number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from hushlm.cost.calls import Call, call_seconds
from hushlm.cost.network import Network
from hushlm.plan import Kernel, Reveal, row_lengths

__all__ = ["BINARY", "Tournament", "choose_tournament", "group_sizes", "kernel_tournament", "reveal_tournament", "tournament_calls"]

GROUPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128)
"""Sizes of groups that are tried."""


@dataclass(frozen=True)
class Tournament:
    """A form of finding row maxima.

    Attributes:
        groups: largest group of each level; as many levels as it takes, the last size being repeated if there are more.
        clips_at_once: whether the last level's call also compares every score with every candidate of its row plus the clip.
    """

    groups: tuple[int, ...]
    clips_at_once: bool = False

    def group(self, level: int) -> int:
        """The size of the groups of a level, the first being 0."""
        return self.groups[min(level, len(self.groups) - 1)]


BINARY = Tournament((2,))
"""Pairs: the fewest bytes."""


def group_sizes(length: int, group: int) -> list[int]:
    """Sizes of the groups of a row, as even as they can be, larger ones first."""
    count = -(-length // group)
    return [length // count + (index < length % count) for index in range(count)]


def _all_of(elements: int, width: int) -> list[int]:
    """How many ANDs each call makes until `width` bits of each of so many elements are one."""
    calls = []
    while width > 1:
        calls.append(elements * (width // 2))
        width -= width // 2
    return calls


def tournament_calls(lengths: Sequence[int], heads: int, form: Tournament, clip: bool, carried: int = 1) -> list[Call]:
    """The calls, in order, that find the maxima of rows of these lengths, for so many heads.

    Args:
        clip: whether the scores above "maximum + clip" are found as well, and kept.
        carried: so many numbers go with each one compared, itself included, and are selected with it.
    """
    rows, scores, calls, level = Counter(lengths), heads * sum(lengths), list[Call](), 0
    clipped = False
    while max(rows) > 1:
        group, last = form.group(level), max(rows) <= form.group(level)
        clipping = 0
        if clip and last and form.clips_at_once:
            clipped = True
            clipping = heads * sum(length * count for length, count in zip(lengths, _candidates(lengths, form, level), strict=True))
        calls += _level_calls(rows, heads, group, carried, clipping, scores)
        rows, level = _shorter(rows, group), level + 1
    if clip:
        calls += [Call("select", scores)] if clipped else [Call("compare", scores), Call("select", scores)]
    return calls


def _level_calls(rows: Counter[int], heads: int, group: int, carried: int, clipping: int = 0, scores: int = 0) -> list[Call]:
    """The calls of one level.

    Args:
        rows: how many rows there are of each length.
        clipping: so many comparisons of scores with candidates are made in the same call, for so many `scores`.
    """
    sizes: Counter[int] = Counter()
    for length, count in rows.items():
        for size, times in _group_counts(length, group):
            sizes[size] += times * count
    pairs = sum(count * (size * (size - 1) // 2) for size, count in sizes.items())
    members = sum(count * (size - 1) for size, count in sizes.items())
    bits = [_all_of(heads * members, max(sizes) - 1)]
    if clipping:
        bits.append(_all_of(scores, max(sizes)))
    depth = max(len(each) for each in bits)
    both = [Call("and", sum(each[step] for each in bits if step < len(each))) for step in range(depth)]
    return [Call("compare", heads * pairs + clipping), *both, Call("select", heads * members * carried)]


def _group_counts(length: int, group: int) -> tuple[tuple[int, int], ...]:
    """`group_sizes` as pairs of a size and how many groups have it."""
    count = -(-length // group)
    size, larger = divmod(length, count)
    return ((size + 1, larger), (size, count - larger)) if larger else ((size, count),)


def _shorter(rows: Counter[int], group: int) -> Counter[int]:
    """The rows after a level."""
    left: Counter[int] = Counter()
    for length, count in rows.items():
        left[-(-length // group)] += count
    return left


def _candidates(lengths: Sequence[int], form: Tournament, level: int) -> list[int]:
    """How many numbers of each row are left before a level."""
    left = list(lengths)
    for before in range(level):
        left = [-(-length // form.group(before)) for length in left]
    return left


@lru_cache(maxsize=256)
def choose_tournament(lengths: tuple[int, ...], heads: int, network: Network, clip: bool, carried: int = 1) -> Tournament:
    """The quickest form over a network, of all whose levels have groups of `GROUPS`; the same at both parties, being a function of
    public sizes alone."""
    # How many rows there are of each length: after a level there are fewer lengths, and many ways lead to the same ones.
    rows = tuple(sorted(Counter(lengths).items()))

    @cache
    def seconds(rows: tuple[tuple[int, int], ...], group: int) -> float:
        return call_seconds(_level_calls(Counter(dict(rows)), heads, group, carried), network)

    @cache
    def shorter(rows: tuple[tuple[int, int], ...], group: int) -> tuple[tuple[int, int], ...]:
        return tuple(_shorter(Counter(dict(rows)), group).items())

    def levels_to(most: int) -> tuple[int, ...]:
        """Groups of the quickest levels after which no row has more than `most` numbers."""

        @cache
        def best(rows: tuple[tuple[int, int], ...]) -> tuple[float, tuple[int, ...]]:
            longest = rows[-1][0]
            if longest <= most:
                return 0.0, ()
            found = []
            for group in GROUPS:
                rest, groups = best(shorter(rows, group))
                found.append((seconds(rows, group) + rest, (group, *groups)))
                if group >= longest:
                    break
            return min(found)

        return best(rows)[1]

    plain = Tournament(levels_to(1) or (2,))
    forms = [plain]
    if clip and rows[-1][0] > 1:
        # With the clip in the last level its group is better small: every split into a last group and the best levels before it.
        forms += [Tournament((*levels_to(last), last), clips_at_once=True) for last in GROUPS]
    return min(forms, key=lambda form: call_seconds(tournament_calls(lengths, heads, form, clip, carried), network))


def kernel_tournament(operation: Kernel, network: Network | None) -> Tournament:
    """How a kernel finds its row maxima; in pairs where no network is named."""
    if network is None:
        return BINARY
    return choose_tournament(tuple(row_lengths(operation)), operation.heads, network, clip=True)


def reveal_tournament(operation: Reveal, network: Network | None) -> Tournament:
    """How the largest logit is found, its id going along."""
    if network is None:
        return BINARY
    return choose_tournament((operation.vocabulary,), operation.rows, network, clip=False, carried=2)
