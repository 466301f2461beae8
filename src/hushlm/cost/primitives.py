"""What one call of each of the engine's primitives moves, as a function of its size.

These are facts of the engine Cheetah (SPU 0.9.5) with a ring of 64 bits; comparisons, selections and truncations are known in a ring of
32 bits too, in which prepared answers compare. Below, n is the number of elements of a call. Comparisons,
selections and truncations run on oblivious transfers (OT): their elements are shared out among up to `settings.threads` workers, each of
which takes a piece of at least `WORKER_ELEMENTS`; what the transfers themselves take is in `hushlm.cost.transfers`. Products run on
ciphertexts of `SLOTS` slots, so that their price does not grow evenly with n but in steps, by whole ciphertexts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hushlm.cost.circuits import ADDER_ANDS, ADDER_OPENINGS, COMPARISON_ANDS, COMPARISON_OPENINGS, PREFIX_ANDS, PREFIX_OPENINGS
from hushlm.cost.constants import Constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.transfers import first_transfers, packed_bytes, used_transfers
from hushlm.plan import ProtocolSettings
from hushlm.plan.engine_tiles import POLYNOMIAL_BYTES, SLOTS, ceil_div, product_blocks, tile_product

__all__ = ["TRANSFER_STOCK", "TRIPLE_BATCH", "Primitives", "sends", "worker_pieces"]

WORKER_ELEMENTS = 2048
"""A further worker joins in for every so many elements of a call."""

LONGEST_SEND_BYTES = 1 << 20
"""What is longer is sent as several messages."""

SENT_AT_ONCE = 16
"""How many ciphertexts of a matrix product are sent before the engine waits for an acknowledgement."""

TRANSFER_STOCK = 10_016_992
"""How many oblivious transfers one refill of a worker yields, for each of the two roles."""

DIRECT_PRODUCT_ELEMENTS = 2 * SLOTS
"""From this many elements on, a product of secrets is computed directly. A smaller one uses up triples from the stock."""

TRIPLE_BATCH = SLOTS // 2
"""How many triples one batch of elementwise products yields."""


def _padded(size: int) -> int:
    """A number of bytes rounded up to whole words of 8 bytes."""
    return 8 * ceil_div(size, 8)


def worker_pieces(n: int, threads: int) -> list[int]:
    """How many of a call's n elements each of the OT workers takes."""
    step = ceil_div(n, min(threads, ceil_div(n, WORKER_ELEMENTS)))
    return [min(step, n - start) for start in range(0, n, step)]


def sends(n: int, each: int, threads: int) -> int:
    """How many messages n elements of `each` bytes take, where long ones are cut."""
    return sum(ceil_div(piece * each, LONGEST_SEND_BYTES) for piece in worker_pieces(n, threads)) if n else 0


@dataclass(frozen=True)
class Primitives:
    """The prices of calls of primitives.

    Attributes:
        constants: the fitted constants.
        settings: the engine's settings.
        ring_bits: of the numbers, 64 or 32; products are in 64 bits alone.
    """

    constants: Constants
    settings: ProtocolSettings
    ring_bits: int = 64

    def _workers(self, n: int) -> int:
        return min(self.settings.threads, ceil_div(n, WORKER_ELEMENTS))

    def _pieces(self, n: int) -> list[int]:
        return worker_pieces(n, self.settings.threads)

    def _used(self, n: int, forward: tuple[int, ...] = (), back: tuple[int, ...] = ()) -> Exchange:
        """What it takes that a call of n elements uses oblivious transfers; see `used_transfers`."""
        return used_transfers(self.settings.transfers, self._pieces(n), forward, back, self.constants)

    @property
    def _choices_are_sent(self) -> bool:
        """Whether the receiver of transfers sends its choices in messages of their own; otherwise it asks for what it chooses."""
        return self.settings.transfers == "ferret"

    def _sends(self, n: int, each: int) -> int:
        return sends(n, each, self.settings.threads)

    def _opened(self, n: int, *bits: int) -> float:
        """The bytes in each direction of several openings of n elements, each opening of so many `bits` of them, in words of the ring."""
        words = sum(ceil_div(piece * width, self.ring_bits) for piece in self._pieces(n) for width in bits)
        return self.constants.opened_word * self.ring_bits / 64 * words

    def _choices(self, n: int, bits: int = 1) -> float:
        """The bytes of n x `bits` choices of the receiver of transfers. Eight go into a byte; each of those left over takes a byte."""
        if not self._choices_are_sent:
            return 0.0
        return self.constants.choice_byte * sum(piece * bits // 8 + piece * bits % 8 for piece in self._pieces(n))

    def _choice_messages(self, n: int) -> int:
        """In how many messages the receiver of transfers sends choices."""
        return self._workers(n) if self._choices_are_sent else 0

    def compare(self, n: int) -> Exchange:
        """x < 0, by a 1-of-16 transfer a digit that the client sends, and then one AND less on four levels (three of 32 bits)."""
        c, workers, openings = self.constants, self._workers(n), COMPARISON_OPENINGS[self.ring_bits]
        opened, share, ands = self._opened(n, *openings), self.ring_bits / 64, tuple(bits for bits, _ in COMPARISON_ANDS[self.ring_bits])
        chosen = (n * share * c.compare_back, self._sends(n, self.ring_bits // 8)) if self._choices_are_sent else (0.0, 0)
        moved = Exchange(
            forward_bytes=n * share * c.compare_forward + opened,
            back_bytes=chosen[0] + opened,
            forward_messages=len(openings) * workers + self._sends(n, self.ring_bits),
            back_messages=len(openings) * workers + chosen[1],
            rounds=c.compare_rounds,
            cpu_seconds=c.call_seconds + n * c.compare_seconds,
            calls=1,
        )
        # A transfer for each bit of a digit.
        return moved + self._used(n, (self.ring_bits, *ands), ands)

    def select(self, n: int) -> Exchange:
        """A secret bit times a secret value, by one transfer in each direction."""
        c = self.constants
        moved = n * c.shared_value * self.ring_bits / 64 + self._choices(n)
        messages = self._choice_messages(n) + self._sends(n, self.ring_bits // 8)
        exchange = Exchange(
            forward_bytes=moved,
            back_bytes=moved,
            forward_messages=messages,
            back_messages=messages,
            rounds=c.select_rounds,
            cpu_seconds=c.call_seconds + n * c.select_seconds,
            calls=1,
        )
        return exchange + self._used(n, (1,), (1,))

    def both(self, n: int) -> Exchange:
        """The AND of two secret bits."""
        c, workers, opened = self.constants, self._workers(n), self._opened(n, 1, 1)
        moved = Exchange(
            forward_bytes=opened,
            back_bytes=opened,
            forward_messages=2 * workers,
            back_messages=2 * workers,
            rounds=2 * c.open_rounds,
            cpu_seconds=c.call_seconds,
            calls=1,
        )
        return moved + self._used(n, (1,), (1,))

    def truncate(self, n: int, bits: int | None = None) -> Exchange:
        """Division by 2^bits, or by the scale of the fixed-point numbers if `bits` is None."""
        c, shift = self.constants, self.settings.fraction_bits if bits is None else bits
        shift_bytes = ceil_div(shift, 8)
        if self._choices_are_sent:
            shifted = [_padded(piece * shift_bytes) for piece in self._pieces(n)]
        else:
            shifted = [packed_bytes(piece, shift, self.ring_bits) for piece in self._pieces(n)]
        moved = Exchange(
            forward_bytes=c.truncation_byte * sum(shifted),
            back_bytes=self._choices(n),
            forward_messages=self._sends(n, shift_bytes),
            back_messages=self._choice_messages(n),
            rounds=c.truncation_rounds,
            cpu_seconds=c.call_seconds + n * c.truncation_seconds,
            calls=1,
        )
        return moved + self._used(n, (1,))

    def _highest_bit(self, n: int, factor: float, factor_bits: tuple[int, ...]) -> Exchange:
        """The bits of a number, its highest bit, and powers of two made from that.

        An adder and a prefix OR, both of ANDs, find the bits; oblivious transfers make the powers.
        """
        c, workers = self.constants, self._workers(n)
        opened = self._opened(n, *ADDER_OPENINGS, *PREFIX_OPENINGS)
        moved = Exchange(
            forward_bytes=opened + n * factor + _padded(4 * n) - 4 * n,
            back_bytes=opened + sum(self._choices(n, bits) for bits in factor_bits),
            forward_messages=(26 + len(factor_bits)) * workers,
            back_messages=26 * workers + len(factor_bits) * self._choice_messages(n),
            rounds=c.bits_rounds,
            cpu_seconds=c.call_seconds + n * c.bits_seconds,
            calls=1,
        )
        ands = (*ADDER_ANDS, *PREFIX_ANDS)
        return moved + self._used(n, (*ands, *factor_bits), ands)

    def _slots(self, batches: int, requests: int, sums: bool, client_encrypts: bool) -> Exchange:
        """Elementwise products: `batches` of `SLOTS`, of which each takes `requests` ciphertexts and one answer for each prime."""
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
        """Making one batch of `TRIPLE_BATCH` triples for the stock."""
        return replace(self._slots(1, 1, False, True), rounds=self.constants.slot_rounds, calls=1)

    def multiply(self, n: int) -> Exchange:
        """The product of two secrets, without its truncation."""
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
        halves = self._slots(ceil_div(n // 2, SLOTS), 2, True, True) + self._slots(ceil_div(n - n // 2, SLOTS), 2, True, False)
        return replace(halves, rounds=c.slot_rounds, calls=1)

    def square(self, n: int) -> Exchange:
        """The engine's own square, as it occurs inside its exponential, without its truncation.

        It takes half the ciphertexts of a product.
        """
        if n <= SLOTS:
            both = self._slots(1, 1, False, True)
        else:
            both = self._slots(ceil_div(n // 2, SLOTS), 1, False, True) + self._slots(ceil_div(n - n // 2, SLOTS), 1, False, False)
        return replace(both, rounds=self.constants.slot_rounds, calls=1)

    def multiply_private(self, n: int) -> Exchange:
        """The product of a secret with a value of the server's, without its truncation."""
        return replace(self._slots(ceil_div(n, SLOTS), 1, False, True), rounds=self.constants.slot_rounds, calls=1)

    def _cross_term(self, rows: int, inner: int, outer: int, client_is_left: bool) -> Exchange:
        """One cross term of a matrix product: one party's share of the left matrix times the other party's of the right one."""
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
        """The round trips in which a product waits for acknowledgements."""
        return (ceil_div(requests, SENT_AT_ONCE) - 1) * self.constants.further_ciphertexts_rounds

    def product_private(self, rows: int, inner: int, outer: int) -> Exchange:
        """A client's or shared matrix (rows, inner) times a matrix (inner, outer) of the server's, without its truncation."""
        total = Exchange()
        for block in product_blocks(rows, inner, outer):
            requests = tile_product(*block, self.settings.pack_products).requests
            total += replace(self._cross_term(*block, client_is_left=True), rounds=self._further(requests), calls=1)
        return total

    def product_shared(self, rows: int, inner: int, outer: int) -> Exchange:
        """The product of two shared matrices, without its truncation: one cross term in each direction, both at once."""
        total = Exchange()
        for block in product_blocks(rows, inner, outer):
            both = self._cross_term(*block, client_is_left=True) + self._cross_term(*block, client_is_left=False)
            rounds = self.constants.shared_product_rounds + self._further(tile_product(*block, self.settings.pack_products).requests)
            total += replace(both, rounds=rounds, calls=1)
        return total

    def arg_maximum(self, n: int, with_value: bool) -> Exchange:
        """The index of the largest of n numbers, by a tournament, and the largest number itself if `with_value`.

        In the first round the indices are public, so that the bit of a comparison is enough to choose between two of them.
        """
        total, first = Exchange(), True
        while n > 1:
            pairs, last = n // 2, n == 2
            values = Exchange() if last and not with_value else self.select(pairs)
            total += self.compare(pairs) + values + (self.bit_to_share(pairs) if first else self.select(pairs))
            n, first = n - pairs, False
        return total

    def bit_to_share(self, n: int) -> Exchange:
        """Turning a secret bit into a secret number, which moves as much as a truncation by all bits of the ring."""
        return self.truncate(n, self.ring_bits)

    def reciprocal(self, n: int) -> Exchange:
        """The engine's 1/x: the sign, a scaling by the highest bit, and Goldschmidt's iteration with seven products and a square."""
        bits = self._highest_bit(n, self.constants.reciprocal_factor, (36,))
        products = self.multiply(n).times(7) + self.square(n) + self.truncate(n).times(6)
        return self.compare(n) + self.bit_to_share(n) + bits + products

    def reciprocal_square_root(self, n: int) -> Exchange:
        """The engine's 1/sqrt(x): the highest bit, a polynomial as a first guess, and a factor for the exponent."""
        bits = self._highest_bit(n, self.constants.rsqrt_factor, (36, 18, 1))
        return bits + self.multiply(n).times(4) + self.truncate(n).times(4) + self.multiply(2 * n) + self.truncate(2 * n)

    def exponential(self, n: int, squarings: int) -> Exchange:
        """The engine's exp as (1 + x/2^squarings)^(2^squarings)."""
        return self.truncate(n, squarings) + (self.square(n) + self.truncate(n)).times(squarings)

    def hyperbolic_tangent(self, n: int) -> Exchange:
        """The engine's tanh: x is clamped to [-5, 5] and goes through Chebyshev polynomials of odd degrees up to 17."""
        clamp = (self.compare(n) + self.select(n)).times(2)
        return clamp + self.multiply(n).times(8) + self.square(n) + self.truncate(n).times(11)

    def open(self, elements: int) -> Exchange:
        """Sending the server's share of a result to the client."""
        c = self.constants
        return Exchange(back_bytes=c.answer_base + elements * c.answer_element, back_messages=3, rounds=0.5, calls=1)

    def set_up(self) -> Exchange:
        """What a session moves once: every worker's first oblivious transfers, and the keys of both kinds of products."""
        return self.first_transfers() + self.keys()

    def first_transfers(self) -> Exchange:
        """Starting every worker of oblivious transfers."""
        return first_transfers(self.settings, self.constants)

    def keys(self, matrices: bool = True) -> Exchange:
        """The keys of elementwise products, and of products of matrices."""
        moved, messages = self.constants.slot_keys + (self.constants.product_keys if matrices else 0.0), 3 if matrices else 1
        return Exchange(forward_bytes=moved, back_bytes=moved, forward_messages=messages, back_messages=messages)

    def refills(self, forward: float, back: float, batches: float) -> Exchange:
        """What refilling the stocks moves.

        Args:
            forward: how many times a worker refills its oblivious transfers that the client sends.
            back: how many times a worker refills those that the server sends.
            batches: how many batches of triples are made.
        """
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
        """The steady state of an exchange: itself, its share of the refills and triple batches that it will cause, and the seconds of the
        transfers that it asks for."""
        c = self.constants
        forward, back = sum(exchange.forward_transfers) / TRANSFER_STOCK, sum(exchange.back_transfers) / TRANSFER_STOCK
        asked = Exchange(cpu_seconds=exchange.asks * c.ask_seconds + exchange.asked_transfers * c.asked_transfer_seconds)
        return exchange + asked + self.refills(forward, back, sum(exchange.triples) / TRIPLE_BATCH)
