"""Windows: seeded, resumable, in range, and fixed ones that cover the split evenly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.data import Sampler, fixed_batches

TOKENS = np.arange(1000, dtype=np.uint16)


def test_windows_are_consecutive_tokens() -> None:
    batch = Sampler(TOKENS, 5, 16, 0).next()
    assert batch.dtype == torch.int64
    assert batch.shape == (5, 17)
    assert torch.equal(batch - batch[:, :1], torch.arange(17).expand(5, 17))


def test_seed_decides_everything() -> None:
    def draw(seed: int) -> torch.Tensor:
        sampler = Sampler(TOKENS, 4, 16, seed)
        return torch.stack([sampler.next() for _ in range(20)])

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


@given(before=st.integers(0, 30), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_restored_from_json_it_goes_on(before: int, seed: int) -> None:
    sampler = Sampler(TOKENS, 3, 8, seed)
    for _ in range(before):
        sampler.next()
    state = json.loads(json.dumps(sampler.state()))
    other = Sampler(TOKENS, 3, 8, seed)
    other.restore(state)
    for _ in range(3):
        assert torch.equal(sampler.next(), other.next())


def test_every_start_is_drawn_including_the_last() -> None:
    sampler = Sampler(np.arange(20, dtype=np.uint16), 50, 16, 0)
    starts = torch.cat([sampler.next()[:, 0] for _ in range(10)])
    assert sorted(set(starts.tolist())) == [0, 1, 2, 3]


def test_starts_are_uniform() -> None:
    sampler = Sampler(TOKENS, 100, 9, 1)
    starts = torch.cat([sampler.next()[:, 0] for _ in range(200)])
    counts = torch.histc(starts.float(), bins=10, min=0, max=990)
    assert counts.min() > 1800  # 2000 expected in each of ten bins
    assert counts.max() < 2200


@pytest.mark.parametrize("change", [{"seed": 1}, {"batch": 2}, {"context": 9}, {"tokens": 7}, {"position": -1}, {"position": None}])
def test_foreign_state_is_refused(change: dict[str, int]) -> None:
    sampler = Sampler(TOKENS, 3, 8, 0)
    with pytest.raises(ValueError, match="saved data order"):
        sampler.restore(sampler.state() | change)


def test_too_few_tokens() -> None:
    Sampler(TOKENS[:17], 1, 16, 0).next()
    with pytest.raises(ValueError, match="too few"):
        Sampler(TOKENS[:16], 1, 16, 0)
    with pytest.raises(ValueError, match="too few"):
        fixed_batches(TOKENS[:16], 1, 16, 1)


@given(length=st.integers(9, 500), batch=st.integers(1, 7), count=st.integers(1, 20))
@settings(deadline=None)
def test_fixed_batches(length: int, batch: int, count: int) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    batches = list(fixed_batches(tokens, batch, 8, count))
    assert all(torch.equal(a, b) for a, b in zip(batches, fixed_batches(tokens, batch, 8, count), strict=True))
    windows = torch.cat(batches)
    targets = windows[:, 1:].flatten().tolist()
    assert len(set(targets)) == len(targets)
    assert len(windows) == min(batch * count, (length - 1) // 8)
    assert all(len(b) == batch for b in batches[:-1])
    steps = windows[1:, 0] - windows[:-1, 0]
    if len(steps):
        assert steps.max() - steps.min() <= 8  # evenly spaced, to within one window
