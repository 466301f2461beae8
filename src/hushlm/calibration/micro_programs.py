"""Small programs of one or two calls of primitives each, to which the constants of the cost model are fitted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import Primitives
from hushlm.private.engine import Party

__all__ = ["LOCAL_PROGRAMS", "MICRO_PROGRAMS", "SERIES", "SQUARINGS", "UNPACKED_PROGRAMS", "MicroProgram"]

Price = Callable[[Primitives], Exchange]
SQUARINGS = 2
"""The squarings of the engine's exponential in all micro-programs."""


@dataclass(frozen=True)
class MicroProgram:
    """One program to count.

    Attributes:
        name: the name that the table of residuals shows.
        build: makes the array program from jax.numpy.
        arguments: the shape and the owner of each argument; the owner of a shared value is None.
        price: what the cost model says that the program moves, without refills.
    """

    name: str
    build: Callable[[Any], Callable[..., Any]]
    arguments: tuple[tuple[tuple[int, ...], Party | None], ...]
    price: Price


def _of_vector(name: str, n: int, build: Callable[[Any], Callable[..., Any]], price: Callable[[Primitives, int], Exchange]) -> MicroProgram:
    return MicroProgram(f"{name} {n}", build, (((n,), None),), lambda p: price(p, n))


def _of_pair(name: str, n: int, owner: Party | None, price: Callable[[Primitives, int], Exchange]) -> MicroProgram:
    return MicroProgram(f"{name} {n}", lambda xp: lambda x, y: x * y, (((n,), None), ((n,), owner)), lambda p: price(p, n) + p.truncate(n))


def _product(rows: int, inner: int, outer: int, owner: Party | None) -> MicroProgram:
    def price(p: Primitives) -> Exchange:
        moved = p.product_shared(rows, inner, outer) if owner is None else p.product_private(rows, inner, outer)
        return moved + p.truncate(rows * outer)

    kind = "shared product" if owner is None else "product"
    shapes = (((rows, inner), None), ((inner, outer), owner))
    return MicroProgram(f"{kind} {rows}x{inner}x{outer}", lambda xp: lambda x, y: x @ y, shapes, price)


def _local(pieces: int) -> MicroProgram:
    """A program that rearranges data and sends nothing, to measure the time of a program's lines."""

    def build(xp: Any) -> Callable[..., Any]:
        return lambda x: xp.concatenate([x[i : i + 1] for i in reversed(range(pieces))])

    return MicroProgram(f"{pieces} local pieces", build, (((pieces,), None),), lambda p: Exchange())


def _rsqrt(xp: Any) -> Callable[..., Any]:
    from jax import lax

    return lambda x: lax.rsqrt(x)


MICRO_PROGRAMS: tuple[MicroProgram, ...] = (
    *(_of_vector("compare", n, lambda xp: lambda x: x < 0.0, Primitives.compare) for n in (64, 1000, 16_384)),
    *(
        _of_vector("compare, select", n, lambda xp: lambda x: xp.maximum(x, 0.0), lambda p, n: p.compare(n) + p.select(n))
        for n in (64, 16_384)
    ),
    *(_of_vector("truncate", n, lambda xp: lambda x: x * 0.3, Primitives.truncate) for n in (64, 16_384, 100_000)),
    *(_of_pair("product by triples", n, None, Primitives.multiply) for n in (64, 4000)),
    *(_of_pair("direct product", n, None, Primitives.multiply) for n in (16_384, 98_304)),
    *(_of_pair("product with the server's", n, Party.SERVER, Primitives.multiply_private) for n in (64, 24_576)),
    *(_of_vector("exponential", n, lambda xp: lambda x: xp.exp(x), lambda p, n: p.exponential(n, SQUARINGS)) for n in (64, 8192, 65_536)),
    *(_of_vector("reciprocal", n, lambda xp: lambda x: 1.0 / x, Primitives.reciprocal) for n in (16, 200)),
    *(_of_vector("inverse root", n, _rsqrt, Primitives.reciprocal_square_root) for n in (16, 200)),
    *(_of_vector("tanh", n, lambda xp: lambda x: xp.tanh(x), Primitives.hyperbolic_tangent) for n in (200,)),
    *(
        _product(*dims, owner)
        for dims, owner in (
            ((1, 64, 64), Party.SERVER),
            ((16, 16, 16), Party.SERVER),
            ((64, 64, 2), Party.SERVER),
            ((128, 64, 64), Party.SERVER),
            ((64, 128, 256), Party.SERVER),
            ((128, 1024, 128), Party.SERVER),
            ((1, 512, 4096), Party.SERVER),
            ((128, 128, 64), Party.SERVER),
            ((32, 512, 64), Party.SERVER),
            ((1, 4096, 512), Party.SERVER),
            ((1, 327_680, 8), Party.SERVER),
            ((64, 16, 64), None),
            ((1, 16, 64), None),
        )
    ),
)


UNPACKED_PROGRAMS = (_product(128, 64, 64, Party.SERVER), _product(64, 256, 96, Party.SERVER))
"""Products with many responses, which are run without packing to measure the time of a response."""

LOCAL_PROGRAMS = (_local(50), _local(400))
"""Programs of many lines that send nothing."""

SERIES = _of_vector("series", 2048, lambda xp: lambda x: x < 0.0, Primitives.compare)
"""A program that is run often enough to need a refill, and small enough for one worker, so that it is only one refill."""
