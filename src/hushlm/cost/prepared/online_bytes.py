"""What the online forms move, as a formula: the words that are opened, and the calls of the engine's primitives, both exactly.

The engine's prices are facts of Cheetah (SPU 0.9.5), counted between two processes with stocks of oblivious transfers in hand; refills of
stocks (about 1.06 MB for each 1.0 to 1.3 million transfers) come on top. Bytes are both directions, payload alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from hushlm.cost.calls import CALLS, Call, Sent, call_rounds, call_sent
from hushlm.cost.inverse_root import root_calls, root_in_pieces
from hushlm.cost.network import Network
from hushlm.cost.tournament import kernel_tournament, reveal_tournament, tournament_calls
from hushlm.plan import (
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    Normalise,
    Operation,
    Plan,
    PowerKernel,
    Prepend,
    Project,
    ProtocolSettings,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
    row_lengths,
)
from hushlm.plan.lookup import choose_buckets
from hushlm.plan.needs import (
    AttendNeed,
    CentreNeed,
    LookUpNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
    pass_needs,
)
from hushlm.plan.protocol_settings import SMALL_RING_BITS, SMALL_WORD_BYTES

__all__ = ["OnlineBytes", "engine_bytes", "left_root", "online_bytes", "online_calls", "opened_bytes", "opened_needs"]

SMALL_COMPARISON = CALLS["compare"].bytes
SMALL_SELECTION = CALLS["select"].bytes
SELECTION = CALLS["select-64"].bytes
WORD = 8


@dataclass(frozen=True)
class OnlineBytes:
    """Bytes of one step, both directions.

    Attributes:
        opened: words that the parties send each other by the online forms, exact.
        engine: truncations, comparisons and selections, exact but for refills of stocks.
        inverse_roots: so many are left to the engine's own program, whose bytes, messages and rounds are not in the others.
        client_messages, server_messages: how often each sends, exact but for refills of stocks.
        rounds: round trips waited for, about.
    """

    opened: int = 0
    engine: int = 0
    inverse_roots: int = 0
    client_messages: int = 0
    server_messages: int = 0
    rounds: float = 0.0

    @property
    def total(self) -> int:
        return self.opened + self.engine


def opened_bytes(need: Need) -> tuple[int, int]:
    """What the client sends to open what a need masks, and what the server sends."""
    match need:
        case ProjectNeed(_, rows, inner, ring_bits=ring_bits):
            return rows * inner * ring_bits // 8, 0
        case LookUpNeed():
            return SMALL_WORD_BYTES * need.client_words, SMALL_WORD_BYTES * need.server_words
        case ScaleNeed(heads, rows, width):
            return WORD * heads * rows * width, WORD * heads * rows
        case AttendNeed(_, side, heads, rows, width, _, new, triangle):
            kept = rows * (rows + 1) // 2 if side == "values" and triangle else rows * need.left_width
            words = heads * (kept + new * width)
        case SquareNeed(elements):
            words = elements
        case ScaleRowsNeed(rows, width) | CentreNeed(rows, width):
            words = rows * width + rows
        case MultiplyNeed(elements):
            words = 2 * elements
        case _:
            assert_never(need)
    return WORD * words, WORD * words


def left_root(operation: Operation, network: Network | None) -> bool:
    """Whether an operation's form leaves inverse roots to the engine's own program."""
    return isinstance(operation, Normalise | RmsNormalise) and not root_in_pieces(operation, network)


def opened_needs(operation: Operation, needs: Sequence[Need], network: Network | None) -> Sequence[Need]:
    """Those of an operation's needs with which something is opened: the others are passed over."""
    return needs[:1] if left_root(operation, network) else needs


def online_calls(operation: Operation, network: Network | None = None, fraction_bits: int = 18) -> list[Call]:
    """The calls of an operation's online form, in order, inverse roots left out."""

    def widened(elements: int, bits: int = 0) -> list[Call]:
        return [Call("truncate", elements)] * -(-(SMALL_RING_BITS + bits) // fraction_bits)

    def product(elements: int) -> list[Call]:
        return [Call("open", 1), Call("truncate", elements)]

    def projected(elements: int) -> list[Call]:
        return [Call("client sends", 1), Call("truncate", elements)]

    def clipped(elements: int) -> list[Call]:
        signs = [Call("compare", elements), Call("select", elements), Call("compare", elements)]
        return [*signs, *([Call("select-64", elements)] * 2)]

    match operation:
        case Embed(rows, vocabulary, width):
            answered = [Call("server sends", 1)] if choose_buckets(rows, vocabulary, width) else []
            return [Call("client sends", 1), *answered, *widened(rows * width)]
        case Normalise(rows, width) | RmsNormalise(rows, width):
            mean = [Call("truncate", rows)] if isinstance(operation, Normalise) else []
            root = root_calls(rows) if root_in_pieces(operation, network) else [Call("truncate", rows)]
            return [*mean, Call("open", 1), *root, *product(rows * width)]
        case Project(rows, _, outer):
            return projected(rows * outer)
        case ScaleRows(rows, width):
            return product(rows * width)
        case Rotate():
            return [Call("truncate", operation.entries)]
        case Prepend():
            return []
        case Scores(heads, rows, keys):
            return product(heads * (rows * (rows + 1) // 2 if operation.is_triangle else rows * keys))
        case Kernel(heads):
            scores, form = operation.elements, kernel_tournament(operation, network)
            maxima = tournament_calls(row_lengths(operation), heads, form, clip=True)
            return [*maxima, *widened(scores, operation.squarings), *(product(scores) * operation.squarings)]
        case PowerKernel():
            return [Call("truncate", operation.elements), *(product(operation.elements) * operation.squarings)]
        case Mix(heads, rows, _, head_width):
            return product(heads * rows * head_width)
        case Divide(heads, rows, width):
            sums, steps = heads * rows, operation.limits
            select, last = ([Call("select-64", steps * sums)], [Call("truncate", sums)]) if steps else ([], [])
            powers = [Call("compare", steps * sums), *select] if steps else []
            # v; its square; its cube, with a linear combination; the last product.
            polynomial = [Call("truncate", sums), *product(sums), *product(2 * sums), *product(sums)]
            return [*powers, *polynomial, *select, *last, *product(sums * width)]
        case Activate(rows, width, kind):
            n = rows * width
            match kind:
                case "relu":
                    return [Call("compare", n), Call("select-64", n)]
                case "squared-relu":
                    return [Call("compare", n), Call("select-64", n), *product(n)]
                case "square":
                    return product(n)
                case "polynomial":
                    return [Call("compare", 2 * n), Call("select-64", 2 * n), *product(n), Call("truncate", n)]
                case "gelu-quartic":
                    return [*clipped(n), *product(n), *product(n), Call("truncate", n)]
                case _:
                    raise AssertionError(f"{kind} has no prepared form")
        case Gate(rows, width):
            return product(rows * width)
        case ActivatedGate(rows, width, kind):
            n = rows * width
            squares = {"silu-quadratic": 1, "silu-quartic": 2}[kind]
            return [*clipped(n), *(product(n) * squares), Call("truncate", n), *product(n)]
        case Reveal(vocabulary, kind, rows=rows):
            if kind == "logits":
                return []
            if kind == "token" and (network is not None or rows > 1):
                return tournament_calls([vocabulary], rows, reveal_tournament(operation, network), clip=False, carried=2)
            raise ValueError("The bytes of a private top-k, or of an arg max without a network, are counted, not given by a formula.")
        case _:
            assert_never(operation)


def engine_bytes(operation: Operation, fraction_bits: int, threads: int = ProtocolSettings.threads) -> int:
    """What the engine moves for an operation's online form, in pairs, inverse roots not included."""
    return sum(
        sent.client_bytes + sent.server_bytes
        for sent in (call_sent(call, threads, fraction_bits) for call in online_calls(operation, None, fraction_bits))
    )


def online_bytes(
    plan: Plan, opened: dict[str, int], fraction_bits: int = 18, network: Network | None = None, threads: int = ProtocolSettings.threads
) -> dict[tuple[int | None, str], OnlineBytes]:
    """Bytes and messages of every step of a pass by layer and name.

    Args:
        opened: rows of each cache that earlier passes opened, brought up to date; as `pass_needs` takes it.
        network: by which forms are chosen.
        threads: of each party's engine.

    Raises:
        ValueError: for a plan whose answer is a private top-k.
    """
    found: dict[tuple[int | None, str], OnlineBytes] = {}
    for step, needs in pass_needs(plan, opened):
        sent = sum(sum(opened_bytes(need)) for need in opened_needs(step.operation, needs, network))
        roots = step.operation.rows if left_root(step.operation, network) else 0
        calls = online_calls(step.operation, network, fraction_bits)
        by_engine = sum((call_sent(call, threads, fraction_bits) for call in calls), Sent())
        found[step.layer, str(step.name)] = OnlineBytes(
            opened=sent,
            engine=by_engine.client_bytes + by_engine.server_bytes,
            inverse_roots=roots,
            client_messages=by_engine.client_messages,
            server_messages=by_engine.server_messages,
            rounds=call_rounds(calls),
        )
    return found
