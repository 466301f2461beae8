"""What one call of each engine primitive moves, as a function of its size. Facts of Cheetah (SPU 0.9.5), ring of 64 bits.

n is the number of elements of a call. Comparisons, selections and truncations run on oblivious transfers (OT), in up to
`workers` pieces of at least `WORKER_ELEMENTS`; products run on ciphertexts of `SLOTS` slots, so they cost steps, not slopes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
from hushlm.plan import ProtocolSettings
from hushlm.plan.engine_tiles import POLYNOMIAL_BYTES, SLOTS, product_blocks, tile_product

__all__ = ["TRANSFER_STOCK", "TRIPLE_BATCH", "Primitives"]

WORKER_ELEMENTS = 2048
LONGEST_SEND_BYTES = 1 << 20
SENT_AT_ONCE = 16
"""Ciphertexts of a matrix product that are sent before the engine waits for an acknowledgement."""

TRANSFER_STOCK = 10_016_992
"""Oblivious transfers that one refill of a worker yields, for each role."""

DIRECT_PRODUCT_ELEMENTS = 2 * SLOTS
"""From this size on a product of secrets is computed directly; below it consumes stored triples."""

TRIPLE_BATCH = SLOTS // 2
"""Triples that one batch of elementwise products yields."""
COMPARISON_OPENINGS = (1, 1, 7, 7, 7, 1, 1, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1)
"""Bits an element of each opening in the ANDs of a comparison: two openings an AND, three where two ANDs share an operand."""

ADDER_OPENINGS = (64,) * 26
PREFIX_OPENINGS = (63, 63, 62, 62, 60, 60, 56, 56, 48, 48, 32, 32)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _padded(size: int) -> int:
    """Bytes in whole words."""
    return 8 * _ceil(size, 8)


@dataclass(frozen=True)
class Primitives:
    """Prices of primitive calls under given constants and settings."""

    constants: Constants
    settings: ProtocolSettings

    def _workers(self, n: int) -> int:
        return min(self.settings.threads, _ceil(n, WORKER_ELEMENTS))

    def _pieces(self, n: int) -> list[int]:
        """Sizes of the pieces that the OT workers take."""
        step = _ceil(n, self._workers(n))
        return [min(step, n - start) for start in range(0, n, step)]

    def _used(self, n: int, each: int) -> tuple[int, ...]:
        """Oblivious transfers that each worker uses up."""
        return tuple(piece * each for piece in self._pieces(n))

    def _sends(self, n: int, each: int) -> int:
        """Messages of n elements of so many bytes each: long ones are cut."""
        return sum(_ceil(piece * each, LONGEST_SEND_BYTES) for piece in self._pieces(n))

    def _opened(self, n: int, *bits: int) -> float:
        """Bytes each way of opening n elements of so many bits, an opening each."""
        return self.constants.opened_word * sum(_ceil(piece * width, 64) for piece in self._pieces(n) for width in bits)

    def _choices(self, n: int, bits: int = 1) -> float:
        """Bytes of n x bits choices from the receiver of transfers; what is left of the last byte goes one byte a choice."""
        return self.constants.choice_byte * sum(piece * bits // 8 + piece * bits % 8 for piece in self._pieces(n))

    def compare(self, n: int) -> Exchange:
        """x < 0: sixteen 1-of-16 transfers of the client's, then fifteen ANDs in four levels."""
        c, workers = self.constants, self._workers(n)
        opened = self._opened(n, *COMPARISON_OPENINGS)
        return Exchange(
            forward_bytes=n * c.compare_forward + opened,
            back_bytes=n * c.compare_back + opened,
            forward_messages=17 * workers + self._sends(n, 64),
            back_messages=17 * workers + self._sends(n, 8),
            rounds=c.compare_rounds,
            cpu_seconds=c.call_seconds + n * c.compare_seconds,
            forward_transfers=self._used(n, 79),
            back_transfers=self._used(n, 15),
            calls=1,
        )

    def select(self, n: int) -> Exchange:
        """Secret bit times secret value: a transfer in each direction."""
        c, workers = self.constants, self._workers(n)
        moved = n * c.shared_value + self._choices(n)
        return Exchange(
            forward_bytes=moved,
            back_bytes=moved,
            forward_messages=workers + self._sends(n, 8),
            back_messages=workers + self._sends(n, 8),
            rounds=c.select_rounds,
            cpu_seconds=c.call_seconds + n * c.select_seconds,
            forward_transfers=self._used(n, 1),
            back_transfers=self._used(n, 1),
            calls=1,
        )

    def truncate(self, n: int, bits: int | None = None) -> Exchange:
        """Division by 2^bits; by the fixed point's scale if `bits` is None."""
        c, workers = self.constants, self._workers(n)
        shift_bytes = _ceil(self.settings.fraction_bits if bits is None else bits, 8)
        return Exchange(
            forward_bytes=c.truncation_byte * sum(_padded(piece * shift_bytes) for piece in self._pieces(n)),
            back_bytes=self._choices(n),
            forward_messages=self._sends(n, shift_bytes),
            back_messages=workers,
            rounds=c.truncation_rounds,
            cpu_seconds=c.call_seconds + n * c.truncation_seconds,
            forward_transfers=self._used(n, 1),
            calls=1,
        )

    def _highest_bit(self, n: int, factor: float, factor_bits: tuple[int, ...]) -> Exchange:
        """Bits of a number, its highest one, and powers of two made of it: an adder and a prefix OR of ANDs, then transfers."""
        c, workers = self.constants, self._workers(n)
        opened = self._opened(n, *ADDER_OPENINGS, *PREFIX_OPENINGS)
        ands = (sum(ADDER_OPENINGS) + sum(PREFIX_OPENINGS)) // 2
        return Exchange(
            forward_bytes=opened + n * factor + _padded(4 * n) - 4 * n,
            back_bytes=opened + sum(self._choices(n, bits) for bits in factor_bits),
            forward_messages=(26 + len(factor_bits)) * workers,
            back_messages=(26 + len(factor_bits)) * workers,
            rounds=c.bits_rounds,
            cpu_seconds=c.call_seconds + n * c.bits_seconds,
            forward_transfers=self._used(n, ands + sum(factor_bits)),
            back_transfers=self._used(n, ands),
            calls=1,
        )

    def _slots(self, batches: int, requests: int, sums: bool, client_encrypts: bool) -> Exchange:
        """Elementwise products: `batches` of `SLOTS`, each `requests` ciphertexts and one answer a prime."""
        c = self.constants
        primes = 3 if self.settings.one_bit_error else 4
        ask = batches * primes * requests
        answer = batches * primes
        sent, answered = ask * c.slot_request, answer * (c.slot_sum_response if sums else c.slot_response)
        forward, back = (sent, answered) if client_encrypts else (answered, sent)
        return Exchange(
            forward_bytes=forward,
            back_bytes=back,
            forward_messages=ask if client_encrypts else answer,
            back_messages=answer if client_encrypts else ask,
            cpu_seconds=c.slot_seconds * (ask + answer),
        )

    def triple_batch(self) -> Exchange:
        """One batch of `SLOTS` / 2 stored triples."""
        return replace(self._slots(1, 1, False, True), rounds=self.constants.slot_rounds, calls=1)

    def multiply(self, n: int) -> Exchange:
        """Product of two secrets, without its truncation."""
        c = self.constants
        if n < DIRECT_PRODUCT_ELEMENTS:
            return Exchange(
                forward_bytes=2 * n * c.opened_word,
                back_bytes=2 * n * c.opened_word,
                forward_messages=1,
                back_messages=1,
                rounds=c.open_rounds,
                cpu_seconds=c.call_seconds + n * c.open_seconds,
                triples=(n,),
                calls=1,
            )
        halves = self._slots(_ceil(n // 2, SLOTS), 2, True, True) + self._slots(_ceil(n - n // 2, SLOTS), 2, True, False)
        return replace(halves, rounds=c.slot_rounds, calls=1)

    def square(self, n: int) -> Exchange:
        """The engine's own square, as inside its exponential: half the ciphertexts of a product, without its truncation."""
        if n <= SLOTS:
            both = self._slots(1, 1, False, True)
        else:
            both = self._slots(_ceil(n // 2, SLOTS), 1, False, True) + self._slots(_ceil(n - n // 2, SLOTS), 1, False, False)
        return replace(both, rounds=self.constants.slot_rounds, calls=1)

    def multiply_private(self, n: int) -> Exchange:
        """Secret times a value of the server's, without its truncation."""
        return replace(self._slots(_ceil(n, SLOTS), 1, False, True), rounds=self.constants.slot_rounds, calls=1)

    def _cross_term(self, rows: int, inner: int, outer: int, client_is_left: bool) -> Exchange:
        c, tiling = self.constants, tile_product(rows, inner, outer, self.settings.pack_products)
        asked = tiling.requests * c.product_request
        if tiling.kept is None:
            answered = tiling.responses * c.product_response
        else:
            answered = tiling.responses * c.bare_response + tiling.kept * c.kept_coefficient
        client_encrypts = tiling.left_encrypts == client_is_left
        memory = tiling.plaintexts * POLYNOMIAL_BYTES
        return Exchange(
            forward_bytes=asked if client_encrypts else answered,
            back_bytes=answered if client_encrypts else asked,
            forward_messages=tiling.requests if client_encrypts else tiling.responses,
            back_messages=tiling.responses if client_encrypts else tiling.requests,
            cpu_seconds=c.product_request_seconds * tiling.requests
            + c.product_response_seconds * tiling.responses
            + c.multiplication_seconds * tiling.multiplications
            + c.key_switch_seconds * tiling.merges,
            client_bytes=0 if client_encrypts else memory,
            server_bytes=memory if client_encrypts else 0,
        )

    def _further(self, requests: int) -> float:
        """Round trips of acknowledgements within a product."""
        return (_ceil(requests, SENT_AT_ONCE) - 1) * self.constants.further_ciphertexts_rounds

    def product_private(self, rows: int, inner: int, outer: int) -> Exchange:
        """(rows, inner) of the client's or shared, times (inner, outer) of the server's, without its truncation."""
        total = Exchange()
        for block in product_blocks(rows, inner, outer):
            requests = tile_product(*block, self.settings.pack_products).requests
            total += replace(self._cross_term(*block, client_is_left=True), rounds=self._further(requests), calls=1)
        return total

    def product_shared(self, rows: int, inner: int, outer: int) -> Exchange:
        """Two shared matrices: a cross term in each direction, at once; without its truncation."""
        total = Exchange()
        for block in product_blocks(rows, inner, outer):
            both = self._cross_term(*block, client_is_left=True) + self._cross_term(*block, client_is_left=False)
            rounds = self.constants.shared_product_rounds + self._further(tile_product(*block, self.settings.pack_products).requests)
            total += replace(both, rounds=rounds, calls=1)
        return total

    def arg_maximum(self, n: int, with_value: bool) -> Exchange:
        """A tournament that carries an index along, and the value unless only the index is asked for at the end.

        In the first round the indices are public, and the bit itself is enough to choose between them.
        """
        total, first = Exchange(), True
        while n > 1:
            pairs, last = n // 2, n == 2
            values = Exchange() if last and not with_value else self.select(pairs)
            total += self.compare(pairs) + values + (self.bit_to_share(pairs) if first else self.select(pairs))
            n, first = n - pairs, False
        return total

    def bit_to_share(self, n: int) -> Exchange:
        """A secret bit as a secret number: as a truncation whose correlation is a whole ring element."""
        return self.truncate(n, 64)

    def reciprocal(self, n: int) -> Exchange:
        """The engine's 1/x: sign, normalisation by the highest bit, Goldschmidt with seven products and one square."""
        bits = self._highest_bit(n, self.constants.reciprocal_factor, (36,))
        products = self.multiply(n).times(7) + self.square(n) + self.truncate(n).times(6)
        return self.compare(n) + self.bit_to_share(n) + bits + products

    def reciprocal_square_root(self, n: int) -> Exchange:
        """The engine's 1/sqrt(x): highest bit, a polynomial first guess, a factor for the exponent."""
        bits = self._highest_bit(n, self.constants.rsqrt_factor, (36, 18, 1))
        return bits + self.multiply(n).times(4) + self.truncate(n).times(4) + self.multiply(2 * n) + self.truncate(2 * n)

    def exponential(self, n: int, squarings: int) -> Exchange:
        """The engine's exp as (1 + x/2^squarings)^(2^squarings)."""
        return self.truncate(n, squarings) + (self.square(n) + self.truncate(n)).times(squarings)

    def hyperbolic_tangent(self, n: int) -> Exchange:
        """The engine's tanh: clamped to [-5, 5], Chebyshev polynomials of odd degrees up to 17."""
        clamp = (self.compare(n) + self.select(n)).times(2)
        return clamp + self.multiply(n).times(8) + self.square(n) + self.truncate(n).times(11)

    def open(self, elements: int) -> Exchange:
        """The server's share of a result, to the client."""
        c = self.constants
        return Exchange(back_bytes=c.answer_base + elements * c.answer_element, back_messages=3, rounds=0.5, calls=1)

    def set_up(self) -> Exchange:
        """Once a session: every worker's first transfers, keys of both kinds of products."""
        c, workers = self.constants, self.settings.threads
        return Exchange(
            forward_bytes=workers * c.worker_set_up + c.slot_keys + c.product_keys,
            back_bytes=workers * c.worker_set_up + c.slot_keys + c.product_keys,
            forward_messages=10 * workers + 4,
            back_messages=10 * workers + 4,
            rounds=10.0,
        )

    def refills(self, forward: float, back: float, batches: float) -> Exchange:
        """So many refills of a worker with the client and with the server as sender, and batches of triples."""
        c, batch = self.constants, self.triple_batch()
        return Exchange(
            forward_bytes=forward * c.refill + batches * batch.forward_bytes,
            back_bytes=back * c.refill + batches * batch.back_bytes,
            forward_messages=2 * forward + batches * batch.forward_messages,
            back_messages=2 * back + batches * batch.back_messages,
            rounds=batches * batch.rounds,
            cpu_seconds=batches * batch.cpu_seconds,
        )

    def amortised(self, exchange: Exchange) -> Exchange:
        """With its share of the refills and triple batches that it will cause: the steady state."""
        forward, back = sum(exchange.forward_transfers) / TRANSFER_STOCK, sum(exchange.back_transfers) / TRANSFER_STOCK
        return exchange + self.refills(forward, back, sum(exchange.triples) / TRIPLE_BATCH)
