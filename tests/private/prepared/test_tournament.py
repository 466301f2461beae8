"""Row maxima in groups: the same numbers as a plain maximum, in every form, and by as many comparisons as the formula says."""

from __future__ import annotations

import numpy as np
import pytest

from hushlm.cost.calls import call_seconds
from hushlm.cost.network import LAN, WAN
from hushlm.cost.tournament import BINARY, Tournament, choose_tournament, group_sizes, tournament_calls
from hushlm.private.prepared.forms.tournament import kept_above, row_winners

FORMS = [
    BINARY,
    Tournament((3,)),
    Tournament((4,)),
    Tournament((5, 2)),
    Tournament((40,)),
    Tournament((2, 3), True),
    Tournament((16, 8), True),
]
ROWS = [[1], [1, 1], [7], [1, 2, 3, 4, 5, 6, 7, 8, 9], [33] * 3, [2, 17, 1]]


@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_maxima_and_clip_are_those_of_numpy(form: Tournament, lengths: list[int]) -> None:
    random = np.random.default_rng(sum(lengths))
    # Few different numbers, so that many are equal.
    x = random.integers(-6, 6, (3, sum(lengths)))
    starts = np.cumsum([0, *lengths[:-1]])
    maxima = np.maximum.reduceat(x, starts, axis=1)
    places = np.broadcast_to(np.arange(x.shape[1]), x.shape)
    best, where = row_winners(np, x, places, lengths, form)
    assert (best == maxima).all()
    assert where is not None
    firsts = [[start + x[h, start : start + n].argmax() for start, n in zip(starts, lengths, strict=True)] for h in range(3)]
    assert (where == firsts).all(), "of equal numbers the first wins"
    clipped = np.maximum(x - np.repeat(maxima, lengths, 1), -4)
    assert (kept_above(np, x, lengths, form, -4) == clipped).all()


class Counting:
    """numpy, counting what would be calls of the engine: ANDs and selections by their elements, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> object:
        return getattr(np, name)

    def logical_and(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        self.calls.append(("and", a.size))
        return np.logical_and(a, b)

    def where(self, bits: np.ndarray, x: np.ndarray, y: int) -> np.ndarray:
        self.calls.append(("select", bits.size))
        return np.where(bits, x, y)


@pytest.mark.parametrize("lengths", ROWS, ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_the_calls_are_those_of_the_formula(form: Tournament, lengths: list[int]) -> None:
    xp = Counting()
    kept_above(xp, np.zeros((2, sum(lengths)), int), lengths, form, -4)
    wanted = [(call.kind, call.elements) for call in tournament_calls(lengths, 2, form, clip=True) if call.kind != "compare"]
    if not form.clips_at_once or max(lengths) == 1:
        wanted = wanted[:-1]  # the clip by `maximum` is the engine's own comparison and selection
    assert xp.calls == wanted


def test_groups_of_two_take_one_comparison_less_than_numbers() -> None:
    for lengths in ROWS:
        compared = sum(call.elements for call in tournament_calls(lengths, 1, BINARY, clip=False) if call.kind == "compare")
        assert compared == sum(lengths) - len(lengths)


def test_groups_are_even_and_complete() -> None:
    for length in range(1, 70):
        for group in (2, 3, 4, 16):
            sizes = group_sizes(length, group)
            assert sum(sizes) == length
            assert max(sizes) <= group
            assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("lengths", [(128,), tuple(range(1, 33)), (300,)], ids=["decode", "prefill", "long"])
def test_the_choice_is_no_worse_than_pairs_and_waits_less_the_longer_a_round_takes(lengths: tuple[int, ...]) -> None:
    chosen = {network: choose_tournament(lengths, 12, network, clip=True) for network in (LAN, WAN)}
    calls = {network: tournament_calls(lengths, 12, form, clip=True) for network, form in chosen.items()}
    for network in (LAN, WAN):
        assert call_seconds(calls[network], network) <= call_seconds(tournament_calls(lengths, 12, BINARY, clip=True), network)
    assert len(calls[WAN]) < len(calls[LAN])
