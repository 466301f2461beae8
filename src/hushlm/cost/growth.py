"""How the price grows with each size of the model and with the length of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from hushlm.architectures import Architecture
from hushlm.config import ModelShape
from hushlm.cost.network import WAN, Network
from hushlm.cost.pricing import price, price_total
from hushlm.plan import decode_plan, prefill_plan, whole_buckets
from hushlm.shapes import GPT2_VOCABULARY, KNOWN_SHAPES

__all__ = ["LONGEST", "growth_by_size", "growth_by_tokens", "growth_of_shapes", "powers_of_two"]

LONGEST = 4096
"""Prices are followed up to this many tokens."""


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and `most` itself."""
    return sorted({2**k for k in range(most.bit_length()) if 2**k <= most} | {most})


def growth_by_size(architecture: Architecture, base: ModelShape, network: Network = WAN) -> list[dict[str, Any]]:
    """The price of one token from a full context, as one size at a time is halved, doubled and so on while the others are kept.

    Returns:
        Rows with `size` (the name of the size that is changed), its `value`, and the price.
    """
    changes: list[tuple[str, Sequence[int]]] = [
        ("context", [base.context * 2**k for k in range(-2, 6) if base.context * 2**k in range(1, LONGEST + 1)]),
        ("layers", sorted({max(1, architecture.removed_ffns, base.layers // 2), base.layers, 2 * base.layers, 4 * base.layers})),
        ("heads", [h for h in (1, 2, 4, 8, 12, 16, 24, 32) if base.width % h == 0]),
        ("width", [base.width // 2 * k for k in (1, 2, 4, 8) if base.width // 2 * k % base.heads == 0]),
        ("vocabulary", [256, 8192, 16_384, GPT2_VOCABULARY, 128_000]),
    ]
    rows = []
    for size, values in changes:
        for value in values:
            sizes: dict[str, Any] = {size: value}
            shape = replace(base, **sizes)
            rows.append(
                {"size": size, "value": value, **price_total(prefill_plan(architecture, shape, shape.context), None, network).to_dict()}
            )
    return rows


def growth_by_tokens(
    architecture: Architecture, base: ModelShape, prompt: int, counts: Sequence[int] = (1, 2, 4, 8, 16, 32), network: Network = WAN
) -> list[dict[str, Any]]:
    """The price of an answer, with and without the key-value cache, for growing numbers of new tokens after a prompt.

    Every token is priced at the length at which the private program runs it, which is rounded up to a multiple of `LENGTH_BUCKET`.

    Args:
        architecture: the model's architecture.
        base: the model's sizes; its context is lengthened where the longest answer needs it.
        prompt: how many tokens the prompt has.
        counts: the numbers of new tokens, each of which gets a row.
        network: the network that the seconds are for.
    """
    last = whole_buckets(prompt + max(counts) - 1)
    shape = replace(base, context=max(base.context, last))
    rows = []
    cached = uncached = 0
    seconds_cached = seconds_uncached = 0.0
    length = 0
    for index in range(max(counts)):
        if prompt + index > length:
            length = whole_buckets(prompt + index)
            whole = price_total(prefill_plan(architecture, shape, length), None, network)
            one = price_total(decode_plan(architecture, shape, length), None, network)
        further = one if index else whole
        cached, uncached = cached + further.bytes, uncached + whole.bytes
        seconds_cached, seconds_uncached = seconds_cached + further.seconds, seconds_uncached + whole.seconds
        if index + 1 in counts:
            rows.append(
                {
                    "new_tokens": index + 1,
                    "bytes": cached,
                    "seconds": seconds_cached,
                    "bytes_without_cache": uncached,
                    "seconds_without_cache": seconds_uncached,
                }
            )
    return rows


def growth_of_shapes(
    architecture: Architecture, contexts: Sequence[int] = (128, 512, 2048, LONGEST), network: Network = WAN
) -> list[dict[str, Any]]:
    """The price of well-known shapes at growing contexts: of a first token from a full context, and of a further one at its end."""
    rows = []
    for name, shape in KNOWN_SHAPES.items():
        for context in contexts:
            at = replace(shape, context=context)
            first = price(prefill_plan(architecture, at, context), network=network)
            further = price_total(decode_plan(architecture, at, context), None, network)
            rows.append(
                {
                    "shape": name,
                    "context": context,
                    "bytes": first.total.bytes,
                    "seconds": first.total.seconds,
                    "server_peak_bytes": first.server_peak_bytes,
                    "further_token_bytes": further.bytes,
                    "further_token_seconds": further.seconds,
                }
            )
    return rows
