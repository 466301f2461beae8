"""Whether a model's numbers fit the ring of 32 bits that comparisons are made in; checked where the weights are, on a sample prompt."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import ModuleType

import numpy as np

from hushlm.plan import Activate, ActivatedGate, Divide, Kernel, Reveal
from hushlm.private.engine import Traffic
from hushlm.private.prepared.desk import SMALL_RING_BITS
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.generate import PrivateGenerator
from hushlm.private.program.steps import Arithmetic

__all__ = ["check_range", "largest_compared"]

SAMPLE_TOKENS = 16

COMPARED: dict[type, tuple[str, int]] = {
    Kernel: ("attention scores", 0),
    Divide: ("sums of attention weights", 1),
    Activate: ("FFN hidden values", 0),
    ActivatedGate: ("gates", 0),
    Reveal: ("logits", 0),
}
"""Operations that compare numbers: what these are called, and which of the operation's inputs they are."""


def largest_compared(fraction_bits: int) -> float:
    """Numbers below this are compared exactly: their differences then still fit the small ring."""
    return 2.0 ** (SMALL_RING_BITS - 2 - fraction_bits)


class _Compared(ReferenceBackend):
    """The reference in float64, keeping the largest number that each kind of comparing operation reads."""

    def __init__(self) -> None:
        super().__init__()
        self.largest_read: dict[str, float] = {}

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        operation = key[0] if isinstance(key, tuple) else None
        if (read := COMPARED.get(type(operation))) is not None:
            named, place = read
            largest = float(np.abs(self._values[inputs[place]]).max())
            self.largest_read[named] = float(np.max([self.largest_read.get(named, 0.0), largest]))
        return super().run(key, build, inputs, outputs, public)


def check_range(description: ProgramDescription, weights: dict[str, np.ndarray]) -> None:
    """Run the reference on a pseudo-random prompt and look at every number that would be compared.

    Raises:
        ValueError: in one sentence, naming what is too large.
    """
    shape, limit = description.shape, largest_compared(description.engine.fraction_bits)
    length = min(SAMPLE_TOKENS, shape.context - 1)
    prompt = np.random.default_rng(0).integers(0, shape.vocabulary, length).tolist()
    backend = _Compared()
    with np.errstate(all="ignore"):  # what is too large is said below
        list(PrivateGenerator(backend, description, weights).generate(prompt, length, 1, RevealPolicy(kind="token"), choose=lambda _: 0))
    for name, largest in backend.largest_read.items():
        if not largest < limit:
            raise ValueError(
                f"The {name} of a sample prompt reach {largest:.3g}, and prepared answers compare numbers in a ring of 32 bits, where "
                f"{limit:.0f} is the limit: serve this model without preparation, or export with fewer fraction bits."
            )
