"""The largest number of each of many rows, as a program of the small ring: in the levels that `hushlm.cost.tournament` chose.

In a group all pairs i < j are compared, bit b_ij = [x_i >= x_j]. Number i is the largest (of equal ones the first) exactly when all b_ij
with i < j and all not b_ji with j < i are one; that is an AND of g - 1 bits, and the group's largest number is
x_0 + sum_i [i is the largest] (x_i - x_0), one selection for each further number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from hushlm.cost.tournament import Tournament, group_sizes

__all__ = ["kept_above", "row_winners"]

Array = Any


@dataclass(frozen=True)
class _Level:
    """Where the numbers of one level stand, in the flat vector of all rows.

    Attributes:
        first, second: (P,) the numbers of each pair compared.
        leaders: (G,) the first number of each group, groups in the order of the next level's vector, larger ones first.
        challengers: for each place 1, 2, ... in a group, the numbers at that place, of the first so many groups.
        literals: (M, g - 1) of each challenger, places in [bits, their negations, one] of the bits that must be one.
        rows: places of each row's groups in the next level's vector.
    """

    first: np.ndarray
    second: np.ndarray
    leaders: np.ndarray
    challengers: list[np.ndarray]
    literals: np.ndarray
    rows: list[np.ndarray]


def _level(rows: Sequence[np.ndarray], group: int) -> _Level:
    parts = [(number, part) for number, row in enumerate(rows) for part in np.split(row, np.cumsum(group_sizes(len(row), group))[:-1])]
    parts.sort(key=lambda numbered: -len(numbered[1]))
    pairs: dict[tuple[int, int], int] = {}
    for _, part in parts:
        for i, j in combinations(part.tolist(), 2):
            pairs[i, j] = len(pairs)
    width, one = len(parts[0][1]) - 1, 2 * len(pairs)
    literals, challengers = [], []
    for place in range(1, width + 1):
        deep = [part.tolist() for _, part in parts if len(part) > place]
        challengers.append(np.array([part[place] for part in deep]))
        for part in deep:
            bits = [pairs[part[j], part[place]] + len(pairs) for j in range(place)]
            bits += [pairs[part[place], part[j]] for j in range(place + 1, len(part))]
            literals.append(bits + [one] * (width - len(bits)))
    owners = np.array([number for number, _ in parts])
    first, second = np.array(list(pairs)).T
    leaders = np.array([part[0] for _, part in parts])
    return _Level(
        first, second, leaders, challengers, np.array(literals), [np.flatnonzero(owners == number) for number in range(len(rows))]
    )


def _all_of(xp: Any, bits: list[Array]) -> list[Array]:
    """ANDs over the last axis, (H, M, w) -> (H, M), several arrays in the same calls."""
    while any(each.shape[-1] > 1 for each in bits):
        lefts, rights, rests = [], [], []
        for each in bits:
            half = each.shape[-1] // 2
            lefts.append(each[..., :half].reshape(-1))
            rights.append(each[..., half : 2 * half].reshape(-1))
            rests.append(each[..., 2 * half :])
        both, at, found = xp.logical_and(xp.concatenate(lefts), xp.concatenate(rights)), 0, []
        for each, left, rest in zip(bits, lefts, rests, strict=True):
            part = both[at : at + left.size].reshape(*each.shape[:-1], each.shape[-1] // 2)
            found.append(xp.concatenate([part, rest], -1))
            at += left.size
        bits = found
    return [each[..., 0] for each in bits]


def _winners(xp: Any, x_HN: Array, level: _Level, wins_HM: Array) -> Array:
    """Of each group the number that wins, (H, G)."""
    places = np.concatenate(level.challengers)
    leaders = np.concatenate([level.leaders[: len(each)] for each in level.challengers])
    kept = xp.where(wins_HM, x_HN[:, places] - x_HN[:, leaders], 0)
    best, at = x_HN[:, level.leaders], 0
    for each in level.challengers:
        best = best + xp.pad(kept[:, at : at + len(each)], ((0, 0), (0, len(level.leaders) - len(each))))
        at += len(each)
    return best


def _literals(xp: Any, bits_HP: Array, level: _Level) -> Array:
    """The bits (H, M, g - 1) that must be one."""
    ones = xp.ones((bits_HP.shape[0], 1), bool)
    return xp.concatenate([bits_HP, xp.logical_not(bits_HP), ones], 1)[:, level.literals]


def row_winners(xp: Any, x_HN: Array, others: Array | None, lengths: Sequence[int], form: Tournament) -> tuple[Array, Array | None]:
    """Of every row the largest number (H, R), and what stands in `others` (H, N) at its place."""
    ends = np.cumsum(lengths)
    rows = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    depth = 0
    while max(map(len, rows)) > 1:
        level = _level(rows, form.group(depth))
        bits = x_HN[:, level.first] >= x_HN[:, level.second]
        (wins,) = _all_of(xp, [_literals(xp, bits, level)])
        if others is None:
            x_HN = _winners(xp, x_HN, level, wins)
        else:
            both = _winners(xp, xp.concatenate([x_HN, others]), level, xp.concatenate([wins, wins]))
            x_HN, others = both[: len(x_HN)], both[len(x_HN) :]
        rows, depth = level.rows, depth + 1
    order = np.concatenate(rows)
    return x_HN[:, order], None if others is None else others[:, order]


def kept_above(xp: Any, s_HN: Array, lengths: Sequence[int], form: Tournament, lowest: int) -> Array:
    """max(s - row maximum, `lowest`) of rows that stand behind one another, (H, N)."""
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    if not form.clips_at_once or max(lengths) == 1:
        maxima, _ = row_winners(xp, s_HN, None, lengths, form)
        return xp.maximum(s_HN - maxima[:, row_of], lowest)
    ends = np.cumsum(lengths)
    rows = [np.arange(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    x_HN, depth = s_HN, 0
    while max(map(len, rows)) > form.group(depth):
        level = _level(rows, form.group(depth))
        (wins,) = _all_of(xp, [_literals(xp, x_HN[:, level.first] >= x_HN[:, level.second], level)])
        x_HN, rows, depth = _winners(xp, x_HN, level, wins), level.rows, depth + 1
    level = _level(rows, form.group(depth))
    # Each score and each candidate of its row; a score lies above the maximum plus the clip if it lies above all of them.
    scores = np.concatenate(
        [np.repeat(np.arange(end - length, end), len(row)) for end, length, row in zip(ends, lengths, rows, strict=True)]
    )
    candidates = np.concatenate([np.tile(row, length) for length, row in zip(lengths, rows, strict=True)])
    left = xp.concatenate([x_HN[:, level.first], s_HN[:, scores]], 1)
    right = xp.concatenate([x_HN[:, level.second], x_HN[:, candidates] + lowest], 1)
    bits, pairs = left >= right, len(level.first)
    width = max(map(len, rows))
    starts = np.concatenate([[0], np.cumsum([len(rows[row]) for row in row_of])])
    above = np.array([
        [starts[i] + k if k < len(rows[row]) else len(scores) for k in range(width)] for i, row in enumerate(row_of)
    ])  # fmt: skip
    ones = xp.ones((bits.shape[0], 1), bool)
    wins, kept = _all_of(xp, [_literals(xp, bits[:, :pairs], level), xp.concatenate([bits[:, pairs:], ones], 1)[:, above]])
    maxima = _winners(xp, x_HN, level, wins)[:, np.concatenate(level.rows)]
    return xp.where(kept, s_HN - maxima[:, row_of] - lowest, 0) + lowest
