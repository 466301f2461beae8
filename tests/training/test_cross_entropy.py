"""Cross-entropy that overwrites its logits, against torch's."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from hushlm.training import cross_entropy
from hushlm.training.cross_entropy import overwriting_cross_entropy


def found(function, factor: float, scale: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 6, generator=generator).requires_grad_() for size in (11, 40))
    targets = torch.randint(40, (11,), generator=generator)
    loss = function(F.linear(x * scale, weight), targets)
    (factor * loss).backward()
    return loss.detach(), x.grad, weight.grad


@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("slice_bytes", [1, 500, 4_000_000])
def test_loss_and_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch, factor: float, scale: float, slice_bytes: int) -> None:
    monkeypatch.setattr(cross_entropy, "_SLICE_BYTES", slice_bytes)
    expected = found(lambda logits, targets: F.cross_entropy(logits, targets, reduction="sum") / 20, factor, scale)
    for x, y in zip(found(lambda logits, targets: overwriting_cross_entropy(logits, targets, 20), factor, scale), expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_no_second_tensor_of_the_logits_size() -> None:
    logits = torch.randn(8, 50).requires_grad_() * 1
    memory = logits.data_ptr()
    seen = []
    logits.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    overwriting_cross_entropy(logits, torch.arange(8), 8).backward()
    assert seen == [memory]


def test_logits_without_gradient_are_left_alone() -> None:
    logits = torch.randn(8, 50)
    before = logits.clone()
    loss = overwriting_cross_entropy(logits, torch.arange(8), 8)
    assert torch.equal(logits, before)
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(8)))


def test_what_is_not_a_number_stays_so() -> None:
    logits = torch.randn(4, 10).requires_grad_() * 1
    with torch.no_grad():
        logits[1, 3] = float("inf")
    assert overwriting_cross_entropy(logits, torch.arange(4), 4).isnan()
