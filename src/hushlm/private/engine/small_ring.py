"""A second runtime with a ring of 32 bits, for comparisons at half the price.

The low 32 bits of additive shares modulo 2^64 are additive shares modulo 2^32 of the same number, exact as long as the number itself fits:
|x| < 2^(31 - fraction bits), that is 2^13 at 18 fraction bits. A comparison costs by the bit, and its result is one bit whose
shares are the same in either ring.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hushlm.private.engine.compiler import Executable
from hushlm.private.engine.mpc_library import load_engine
from hushlm.private.engine.runtime import Engine
from hushlm.private.engine.shares import Words, make_share, share_content
from hushlm.private.engine.traffic import Traffic

__all__ = ["SMALL_FRACTION_BITS", "SmallRing", "SmallWords"]

SMALL_FRACTION_BITS = 8
"""Of real numbers in the small ring. Values of the large ring come in as whole numbers, and keep the fraction bits that they have."""

SmallWords = NDArray[np.uint32]
"""One party's words of a value shared modulo 2^32, or of shared bits."""


class SmallRing:
    """Programs on whole numbers modulo 2^32, on a link of their own beside the engine's. Both parties make one at the same moment.

    Args:
        engine: whose settings and link it shares; it has its own stocks of oblivious transfers, which the first comparisons fill.
    """

    def __init__(self, engine: Engine) -> None:
        spu, libspu = load_engine()
        assert engine.channel is not None, "an engine that simulates has no link"
        config = libspu.RuntimeConfig()
        settings = json.loads(engine.settings.to_json()) | {"field": "FM32", "fxp_fraction_bits": SMALL_FRACTION_BITS}
        if not config.ParseFromJsonString(json.dumps(settings)):
            raise RuntimeError(f"The engine does not accept these settings: {settings}")
        self._engine, self._libspu = engine, libspu
        self._runtime = spu.Runtime(engine.channel.context.spawn(), config)

    def run(self, executable: Executable, inputs: Sequence[Words | SmallWords]) -> tuple[list[SmallWords], Traffic]:
        """Run a program compiled for 32-bit integers.

        Args:
            inputs: words of this party, of either ring: of the large one the low half is taken.

        Returns:
            This party's words of the results (of truth values, one bit a word), and what moved.

        Raises:
            ValueError: if a result is neither a number nor a truth value.
        """
        ins = [f"small.in{i}" for i in range(len(inputs))]
        outs = [f"small.out{i}" for i in range(len(executable.outputs))]
        for name, words in zip(ins, inputs, strict=True):
            self._runtime.set_var(name, make_share(words.astype(np.uint32), "cheetah.AShr<FM32>", self._libspu.DataType.DT_I32))
        traffic = self._engine.execute(self._runtime, executable.renamed(ins, outs))
        results = [self._words(name) for name in outs]
        for name in {*ins, *outs}:
            self._runtime.del_var(name)
        return results, traffic

    def _words(self, name: str) -> SmallWords:
        storage, shape, raw = share_content(self._runtime.get_var(name))
        words = np.frombuffer(raw, np.uint32).reshape(shape) if len(raw) == 4 * int(np.prod(shape)) else None
        if words is None or not storage.startswith(("cheetah.AShr<FM32>", "cheetah.BShr<FM32,1>")):
            raise ValueError(f"A result of the small ring is stored as {storage}, which is neither a number nor a truth value.")
        return words & np.uint32(1) if storage.startswith("cheetah.BShr") else words.copy()
