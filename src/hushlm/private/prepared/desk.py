"""Words in, words out: the few things that still need the engine online, each a compiled program kept by its shapes.

Everything here takes and returns this party's words of shared numbers in fixed point; both parties make the same calls in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from hushlm.cost.network import Network
from hushlm.plan.protocol_settings import SMALL_RING_BITS
from hushlm.private.engine import Engine, Executable, Party, Traffic, compile_program
from hushlm.private.engine.shares import WordLink, Words, encode, install_bits, install_words, words_of
from hushlm.private.engine.small_ring import SmallRing, SmallWords

__all__ = ["Desk"]


class Desk:
    """One party's engine, its small ring and its link, with what they moved.

    Args:
        engine: of this party; the other one must make its desk at the same moment.
        network: between the parties, by which forms are chosen: fewer bytes or fewer rounds. Both parties name the same one; without
            one the forms are those with the fewest bytes.

    Attributes:
        engine, party, network: this party's.
        fraction_bits: of fixed-point numbers.
        link: for words that are sent openly (because they are masked).
        compilations: how many programs were compiled; they are kept by what they compute and by shapes.
    """

    def __init__(self, engine: Engine, network: Network | None = None) -> None:
        self.network = network
        self.engine, self.party, self.fraction_bits = engine, engine.party, engine.settings.fraction_bits
        self.is_client = engine.party is Party.CLIENT
        self.link, self._small = WordLink(engine), SmallRing(engine)
        self._programs: dict[Hashable, Executable] = {}
        self._traffic = Traffic()
        self._operands: set[int] = set()

    @property
    def compilations(self) -> int:
        return len(self._programs)

    def take_traffic(self) -> Traffic:
        """What was moved since this was last asked: openings, engine and small ring together."""
        total = self._traffic + self.link.traffic
        self._traffic, self.link.traffic = Traffic(), Traffic()
        return total

    def constant(self, value: np.ndarray | float, fraction_bits: int | None = None) -> Words:
        """This party's words of a public number: the client has it, the server zeros."""
        words = encode(np.asarray(value), self.fraction_bits if fraction_bits is None else fraction_bits)
        return words if self.is_client else np.zeros_like(words)

    def program(
        self,
        key: Hashable,
        function: Callable[..., Any],
        inputs: Sequence[Words],
        *,
        public: Sequence[np.ndarray] = (),
        results: int = 1,
        whole: bool = False,
    ) -> list[Words]:
        """Run an array program of the engine.

        Args:
            key: of what it computes; with the shapes it identifies a compilation, in this process and in others (`Engine.compiled`).
            function: of secret arrays, then public ones.
            inputs: words of the secret arguments.
            public: values of the public arguments.
            results: how many arrays it returns.
            whole: take the words as whole numbers, so that products are not truncated.
        """
        ins = [f"desk.in{i}" for i in range(len(inputs))]
        known = [f"desk.public{i}" for i in range(len(public))]
        for name, words in zip(ins, inputs, strict=True):
            install_words(self.engine, name, words, whole)
        for name, value in zip(known, public, strict=True):
            self.engine.put_public(name, value)
        shapes = [each.shape for each in (*inputs, *public)]
        return self.execute(key, function, shapes, [*ins, *known], results, range(len(inputs), len(shapes)))

    def execute(
        self,
        key: Hashable,
        function: Callable[..., Any],
        shapes: Sequence[tuple[int, ...]],
        inputs: list[str],
        results: int = 1,
        public: Sequence[int] = (),
        kind: Any = np.float32,
        kept: Sequence[str] = (),
    ) -> list[Words]:
        """Run an array program on variables that are installed already; they are deleted after it, except those in `kept`.

        Args:
            public, kind: as `compile_program` takes them.
        """
        whole_key = (key, *shapes)
        if whole_key not in self._programs:
            self._programs[whole_key] = self.engine.compiled(
                ("prepared", whole_key, results, tuple(public), kind),
                lambda: compile_program(function, shapes, results, "prepared", public, kind),
            )
        outputs = [f"desk.out{i}" for i in range(results)]
        self._traffic += self.engine.run(self._programs[whole_key].renamed(inputs, outputs))
        found = [words_of(self.engine, name) for name in outputs]
        for name in {*inputs, *outputs} - set(kept):
            self.engine.delete(name)
        return found

    def divide(self, words: Words, bits: int) -> Words:
        """Words of x -> words of x / 2^bits, at most one unit off, for |x| < 2^62: the engine's truncation.

        A truncation drops the engine's fraction bits f. More are dropped by several of them; fewer by a public factor of 2^(f - bits) raw
        units, which the number itself must leave room for: |x| < 2^(62 - f + bits).
        """
        while bits > self.fraction_bits:
            words, bits = self._truncate(words, self.fraction_bits), bits - self.fraction_bits
        return self._truncate(words, bits)

    def truncate(self, words: Words) -> Words:
        """The product of two fixed-point numbers, with twice the fraction bits -> once."""
        return self._truncate(words, self.fraction_bits)

    def _truncate(self, words: Words, bits: int) -> Words:
        # By a public operand: a constant this small in the program's own text is scaled first, and then only numbers below 2^46 fit.
        operand = f"desk.divisor{bits}"
        if bits not in self._operands:
            self.engine.put_public(operand, np.asarray(2.0**-bits))
            self._operands.add(bits)
        install_words(self.engine, "desk.in0", words.reshape(-1))
        shapes = [(words.size,), ()]
        (out,) = self.execute("truncate", lambda x, unit: x * unit, shapes, ["desk.in0", operand], 1, [1], kept=[operand])
        return out.reshape(words.shape)

    def small(self, key: Hashable, function: Callable[..., Any], inputs: Sequence[Words], results: int = 1) -> list[SmallWords]:
        """Run a program of 32-bit integers on the low halves of words; exact where numbers and their differences stay below 2^31.

        Returns:
            Words modulo 2^32, or shared bits where a result is a truth value.
        """
        shapes = [words.shape for words in inputs]
        whole_key = ("small", key, *shapes)
        if whole_key not in self._programs:
            self._programs[whole_key] = self.engine.compiled(
                ("prepared_small", whole_key, results), lambda: compile_program(function, shapes, results, "prepared_small", (), np.int32)
            )
        found, traffic = self._small.run(self._programs[whole_key], inputs)
        self._traffic += traffic
        return found

    def where(self, bits: SmallWords, words: Words) -> Words:
        """x where a shared bit is 1, 0 where it is 0; both of one shape."""
        import jax.numpy as jnp

        install_bits(self.engine, "desk.bits", bits.reshape(-1))
        install_words(self.engine, "desk.in0", words.reshape(-1))
        shapes = [(words.size,)] * 2
        kinds = [np.bool_, np.float32]
        (out,) = self.execute("where", lambda bit, x: jnp.where(bit, x, 0.0), shapes, ["desk.bits", "desk.in0"], 1, kind=kinds)
        return out.reshape(words.shape)

    def widen(self, small: SmallWords, bits: int) -> Words:
        """Shares modulo 2^32 of x -> shares modulo 2^64 of x / 2^bits, for |x| < 2^30.

        Times 2^32 they are shares modulo 2^64 of 2^32 x, and truncations bring that back.
        """
        return self.divide(small.astype(np.uint64) << np.uint64(SMALL_RING_BITS), SMALL_RING_BITS + bits)
