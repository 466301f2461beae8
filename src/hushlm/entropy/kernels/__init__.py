"""Implementations of attention with row entropies behind one signature. A new one is a new file and a row in `KERNELS`.

Every kernel gets float32 or float64 and the scale 1 / (t sqrt(E)), and is tested against `reference`.
"""

from __future__ import annotations

from torch import Tensor

from hushlm.entropy.kernels import analytic, native, reference, triton
from hushlm.entropy.kernels.base import KernelImplementation

__all__ = ["KERNELS", "KernelImplementation", "choose"]

KERNELS: tuple[KernelImplementation, ...] = (native.KERNEL, triton.KERNEL, analytic.KERNEL, reference.KERNEL)
"""Fastest first."""


def choose(q_BHTE: Tensor, *, order: int | None, name: str | None = None) -> KernelImplementation:
    """The kernel called `name`, or the first in `KERNELS` that supports these queries and this order.

    Raises:
        ValueError: if `name` is unknown or cannot take the inputs.
    """
    if name is None:
        return next(kernel for kernel in KERNELS if kernel.supports(q_BHTE, order))
    for kernel in KERNELS:
        if kernel.name == name and kernel.supports(q_BHTE, order):
            return kernel
    known = ", ".join(kernel.name for kernel in KERNELS)
    raise ValueError(f"No attention kernel {name!r} for {q_BHTE.dtype} on {q_BHTE.device} with order {order}: choose one of {known}.")
