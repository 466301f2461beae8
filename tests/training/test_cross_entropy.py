"""Cross-entropy that overwrites its logits, against torch's; with a teacher, against the formula written out in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from hushlm.training import cross_entropy
from hushlm.training.cross_entropy import DistilledLoss, distilling_cross_entropy, overwriting_cross_entropy


def found(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], factor: float, scale: float) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(size, 6, generator=generator).requires_grad_() for size in (11, 40))
    targets = torch.randint(40, (11,), generator=generator)
    loss = function(F.linear(x * scale, weight), targets)
    (factor * loss).backward()
    assert x.grad is not None
    assert weight.grad is not None
    return loss.detach(), x.grad, weight.grad


@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("slice_bytes", [1, 500, 4_000_000])
def test_loss_and_gradients_are_torchs(monkeypatch: pytest.MonkeyPatch, factor: float, scale: float, slice_bytes: int) -> None:
    monkeypatch.setattr(cross_entropy, "_SLICE_BYTES", slice_bytes)
    expected = found(lambda logits, targets: F.cross_entropy(logits, targets, reduction="sum") / 20, factor, scale)
    for x, y in zip(found(lambda logits, targets: overwriting_cross_entropy(logits, targets, 20), factor, scale), expected, strict=True):
        # A gradient of small numbers may be the difference of large ones: its rounding is measured by the largest.
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6 * max(1.0, y.abs().max().item()))


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


def student_and_teacher(dtype: torch.dtype, scale: float = 1.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    x, weight, teacher = (scale * torch.randn(*size, generator=generator) for size in ((11, 6), (40, 6), (11, 40)))
    return x.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), teacher.to(dtype), torch.randint(40, (11,), generator=generator)


def by_the_formula(logits: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor, rows: int, w: float, tau: float) -> DistilledLoss:
    """Written from the definitions: exponentials and their sums."""
    q, soft_q, p = (z.exp() / z.exp().sum(1, keepdim=True) for z in (logits, logits / tau, teacher / tau))
    cross_entropy = -q[torch.arange(len(targets)), targets].log().sum() / rows
    divergence = (p * (p / soft_q).log()).sum() / rows
    return DistilledLoss((1 - w) * cross_entropy + w * tau**2 * divergence, cross_entropy, divergence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # float64 is not overwritten: the other branch
@pytest.mark.parametrize("factor", [1.0, 2.5])
@pytest.mark.parametrize(("weight", "temperature"), [(0.3, 1.0), (0.3, 2.5), (0.7, 0.5), (1.0, 1.0), (1.0, 4.0)])
@pytest.mark.parametrize("slice_bytes", [1, 500, 4_000_000])
def test_distilling_follows_the_formula(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, factor: float, weight: float, temperature: float, slice_bytes: int
) -> None:
    monkeypatch.setattr(cross_entropy, "_SLICE_BYTES", slice_bytes)
    x, matrix, teacher, targets = student_and_teacher(torch.float64)
    expected = by_the_formula(F.linear(x, matrix), teacher, targets, 20, weight, temperature)
    (factor * expected.total).backward()
    ours_x, ours_matrix, teacher, _ = student_and_teacher(dtype)
    found = distilling_cross_entropy(F.linear(ours_x, ours_matrix), teacher, targets, 20, weight=weight, temperature=temperature)
    (factor * found.total).backward()
    assert ours_x.grad is not None
    assert ours_matrix.grad is not None
    assert x.grad is not None
    assert matrix.grad is not None
    for mine, its in zip((*found, ours_x.grad, ours_matrix.grad), (*expected, x.grad, matrix.grad), strict=True):
        torch.testing.assert_close(mine.detach().double(), its.detach(), rtol=1e-5, atol=1e-6)
    assert not found.cross_entropy.requires_grad
    assert not found.divergence.requires_grad


def test_a_student_equal_to_its_teacher_learns_from_the_text_alone() -> None:
    logits = torch.randn(8, 50)
    targets = torch.arange(8)
    student, reference = (logits.clone().requires_grad_() for _ in range(2))
    found = distilling_cross_entropy(student * 1, logits, targets, 8, weight=0.25, temperature=2.0)
    found.total.backward()
    F.cross_entropy(reference, targets).backward()
    assert found.divergence.item() == pytest.approx(0, abs=1e-7)
    assert reference.grad is not None
    torch.testing.assert_close(student.grad, 0.75 * reference.grad)


def test_extreme_logits_of_either_give_finite_numbers() -> None:
    student, teacher = (1e4 * torch.randn(8, 50) for _ in range(2))
    logits = student.requires_grad_() * 1
    found = distilling_cross_entropy(logits, teacher, torch.arange(8), 8, weight=0.5, temperature=1.0)
    found.total.backward()
    assert found.divergence > 1e3
    assert student.grad is not None
    assert all(bool(tensor.isfinite().all()) for tensor in (*found, student.grad))


def test_distilling_overwrites_the_students_logits_and_leaves_the_teachers_alone() -> None:
    logits, teacher = torch.randn(8, 50).requires_grad_() * 1, torch.randn(8, 50)
    memory, before = logits.data_ptr(), teacher.clone()
    seen = []
    logits.register_hook(lambda gradient: seen.append(gradient.data_ptr()))
    distilling_cross_entropy(logits, teacher, torch.arange(8), 8, weight=0.5, temperature=2.0).total.backward()
    assert seen == [memory]
    assert torch.equal(teacher, before)
