"""Fitting the constants of answers from prepared material (`hushlm.cost.prepared`) to micro-runs of their calls at two parties.

Bytes of these calls follow from the engine's rules and are only compared. Seconds are fitted as in
`hushlm.calibration.fit`, but to the quickest of several runs, because the machine may have other work.
"""

from __future__ import annotations

import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from functools import partial
from typing import Any

import numpy as np

from hushlm.calibration.both_parties import run_both
from hushlm.calibration.fit import REFITS, SHORTEST_SECONDS, least_squares
from hushlm.calibration.machine import processor_name
from hushlm.cost.calls import Call
from hushlm.cost.constants import Residual, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.prepared.calls import OnlineCalls, calls_with
from hushlm.cost.prepared.online_constants import CalibratedOnline, OnlineConstants
from hushlm.cost.tournament import BINARY, tournament_calls
from hushlm.plan import Reveal
from hushlm.private.engine import Engine, EngineSettings, engine_version
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.ring import WeightMatrix, full_product
from hushlm.private.program.attention_kernel import row_maxima
from hushlm.private.program.steps import arithmetic

__all__ = ["CountedCall", "MicroCall", "calibrate_prepared", "count_calls", "micro_calls"]

LARGEST_WEIGHT = 2**20
REFILLING = 131_072
"""So many comparisons use up a quarter of both workers' stocks of oblivious transfers."""


@dataclass(frozen=True)
class MicroCall:
    """One call of an online form.

    Attributes:
        name: that the table of residuals shows.
        make: given a desk, what is run.
        price: what the cost room says of it.
        compiles: the first run compiles a program.
    """

    name: str
    make: Callable[[Desk], Callable[[], object]]
    price: Callable[[OnlineCalls], Exchange]
    compiles: bool = True


@dataclass(frozen=True)
class CountedCall:
    """What one party counted: bytes and messages, as numbers of client and server, of the run that moved least, and seconds.

    Attributes:
        moved: bytes and messages sent, bytes and messages received.
        cpu_seconds, seconds: of the quickest run.
        first_seconds: CPU seconds of the first run, which compiles.
        runs: bytes of both directions, CPU seconds and seconds of every later run.
    """

    moved: tuple[int, int, int, int]
    cpu_seconds: float
    seconds: float
    first_seconds: float
    runs: tuple[tuple[int, float, float], ...]


def _words(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**20, shape, dtype=np.uint64)


def _truncate(n: int) -> MicroCall:
    return MicroCall(f"truncate {n}", lambda desk: partial(desk.truncate, _words(n)), lambda p: p.program() + p.price(Call("truncate", n)))


def _where(n: int) -> MicroCall:
    def make(desk: Desk) -> Callable[[], object]:
        bits, x = _words(n).astype(np.uint32) & np.uint32(1), _words(n)
        return lambda: desk.where(bits, x)

    return MicroCall(f"select {n}", make, lambda p: p.program() + p.price(Call("select-64", n)))


def _small(name: str, program: Callable[[Any], Any], shape: tuple[int, ...], price: Callable[[OnlineCalls], Exchange]) -> MicroCall:
    return MicroCall(name, lambda desk: partial(desk.small, name, program, [_words(*shape)]), lambda p: p.program() + price(p))


def _compare(n: int) -> MicroCall:
    return _small(f"compare {n}", lambda v: v < 0, (n,), lambda p: p.price(Call("compare", n)))


def _larger(n: int) -> MicroCall:
    import jax.numpy as jnp

    return _small(f"larger {n}", lambda v: jnp.maximum(v, 5), (n,), lambda p: p.price(Call("compare", n)) + p.price(Call("select", n)))


def _maxima(heads: int, lengths: list[int]) -> MicroCall:
    import jax.numpy as jnp

    def price(p: OnlineCalls) -> Exchange:
        return sum(map(p.price, tournament_calls(lengths, heads, BINARY, clip=False)), Exchange())

    return _small(f"maxima {heads} x {len(lengths)} rows", lambda v: row_maxima(jnp, v, lengths), (heads, sum(lengths)), price)


def _largest(n: int) -> MicroCall:
    import jax.numpy as jnp

    return _small(f"arg max {n}", arithmetic(Reveal(n, "token"), jnp), (1, n), lambda p: p.arg_maximum(n))


def _open(n: int) -> MicroCall:
    def price(p: OnlineCalls) -> Exchange:
        return p.price(Call("open", 1)) + p.opened(8 * n, 8 * n)

    return MicroCall(f"open {n}", lambda desk: partial(desk.link.open, _words(n)), price, compiles=False)


def _send(n: int) -> MicroCall:
    def make(desk: Desk) -> Callable[[], object]:
        x = _words(n)
        return lambda: desk.link.send(x) if desk.is_client else desk.link.receive((n,))

    return MicroCall(f"send {n}", make, lambda p: p.price(Call("client sends", 1)) + p.opened(8 * n, 0), compiles=False)


def _weights(rows: int, inner: int, outer: int, ring_bits: int = 64) -> MicroCall:
    def make(desk: Desk) -> Callable[[], object]:
        if desk.is_client:
            return lambda: None
        whole = np.random.default_rng(0).integers(-LARGEST_WEIGHT, LARGEST_WEIGHT, (inner, outer))
        matrix, x = WeightMatrix(whole, ring_bits), _words(rows, inner) << np.uint64(30)
        return lambda: matrix.product(x)

    name = f"weights {rows}x{inner}x{outer}, {ring_bits} bits"
    return MicroCall(name, make, lambda p: p.weight_product(rows, inner, outer, ring_bits), compiles=False)


def _full(heads: int, rows: int, inner: int, outer: int) -> MicroCall:
    def make(desk: Desk) -> Callable[[], object]:
        x, y = _words(heads, rows, inner) << np.uint64(40), _words(heads, inner, outer) << np.uint64(40)
        return lambda: full_product(x, y)

    return MicroCall(f"{heads} of {rows}x{inner}x{outer}", make, lambda p: p.full_products(rows, inner, outer, heads), compiles=False)


def micro_calls() -> list[MicroCall]:
    """The calls that the constants are fitted to, alike at both parties."""
    return [
        *map(_truncate, (12, 2000, 16_384, 98_304)),
        *map(_where, (12, 2000, 16_384)),
        *map(_compare, (1, 13, 100, 2000, 16_384, REFILLING)),
        *map(_larger, (13, 16_384)),
        _maxima(12, [128]),
        _maxima(4, list(range(1, 65))),
        *map(_largest, (100, 5000)),
        *map(_open, (12, 10_000, 200_000)),
        *map(_send, (10_000, 1_000_000)),
        _weights(128, 768, 768),
        _weights(1, 768, 3072),
        _weights(32, 768, 2304),
        _weights(128, 8192, 256, 32),
        _weights(1, 8192, 768, 32),
        _full(12, 128, 64, 128),
        _full(12, 128, 128, 64),
        _full(12, 1, 64, 128),
    ]


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def count_calls(engine: Engine, names: Sequence[str], repeats: int) -> list[CountedCall]:
    """Run micro-calls of these names, each `repeats` times after a first one. Both parties call this at the same time."""
    desk, found = Desk(engine), []
    # Stocks are filled before anything is counted.
    desk.where(desk.small("first", lambda v: v < 0, [_words(4096)])[0], _words(4096))
    for call in micro_calls():
        if call.name not in names:
            continue
        run, runs = call.make(desk), []
        for _ in range(repeats + 1):
            desk.link.open(_words(1))
            desk.take_traffic()
            cpu, start = _cpu_seconds(), time.perf_counter()
            run()
            seconds, used, t = time.perf_counter() - start, _cpu_seconds() - cpu, desk.take_traffic()
            runs.append(((t.sent_bytes, t.sent_messages, t.received_bytes, t.received_messages), used, seconds))
        least = min((moved for moved, _, _ in runs), key=sum)
        later = tuple((moved[0] + moved[2], used, seconds) for moved, used, seconds in runs[1:])
        found.append(CountedCall(least, min(r[1] for r in later), min(r[2] for r in later), runs[0][1], later))
    return found


def _prices(calls: Sequence[MicroCall], columns: Sequence[str], read: Callable[[Exchange], float]) -> np.ndarray:
    """How many units of each constant every call takes, found by evaluating the model on unit vectors."""
    units = [_with(OnlineConstants(**{name: 1.0})) for name in columns]
    return np.array([[read(call.price(unit)) for unit in units] for call in calls])


def _with(constants: OnlineConstants) -> OnlineCalls:
    return calls_with(load_constants().values, constants, EngineSettings())


def calibrate_prepared(repeats: int = 7) -> CalibratedOnline:
    """Run every micro-call in two processes, and fit the constants.

    Raises:
        ValueError: where the engine is not installed.
    """
    calls, settings = micro_calls(), EngineSettings()
    client, server = run_both(count_calls, ([call.name for call in calls], repeats), settings)
    both = list(zip(client, server, strict=True))
    used = np.array([a.cpu_seconds + b.cpu_seconds for a, b in both])
    passed = np.array([max(a.seconds, b.seconds) for a, b in both])
    compiling = [a.first_seconds + b.first_seconds - spent for call, (a, b), spent in zip(calls, both, used, strict=True) if call.compiles]
    compile_seconds = float(np.median(compiling))
    names = [field.name for field in fields(OnlineConstants)]
    timed = [name for name in names if name.endswith("_seconds") and name not in ("compile_seconds", "refill_seconds")]
    design = _prices(calls, timed, lambda exchange: exchange.cpu_seconds)
    cpu, wall = (least_squares(design, seconds, SHORTEST_SECONDS, REFITS) for seconds in (used, passed))
    shared = OnlineConstants(compile_seconds=compile_seconds)
    values, elapsed = (replace(shared, **dict(zip(timed, map(float, found), strict=True))) for found in (cpu, wall))
    index = next(index for index, call in enumerate(calls) if call.name == f"compare {REFILLING}")
    refill_cpu, refill_seconds = _refill(*both[index])
    values = replace(values, refill_seconds=refill_cpu)
    # Both parties compile at once.
    elapsed = replace(elapsed, compile_seconds=compile_seconds / 2, refill_seconds=refill_seconds)
    prices = [call.price(_with(values)) for call in calls]
    residuals = tuple(
        Residual(call.name, a.moved[0] + a.moved[2], price.total_bytes, float(spent), price.cpu_seconds)
        for call, price, (a, _), spent in zip(calls, prices, both, used, strict=True)
    )
    return CalibratedOnline(engine_version(), _machine(), date.today().isoformat(), values, elapsed, residuals)


def _refill(client: CountedCall, server: CountedCall) -> tuple[float, float]:
    """CPU seconds of both parties and seconds of one refill: what runs that refilled stocks took more than the quickest that did not."""
    stock, least = load_constants().values.refill, client.moved[0] + client.moved[2]
    plain: list[tuple[int, float, float]] = []
    refilled: list[tuple[int, float, float]] = []
    for (moved, used, seconds), (_, other, waited) in zip(client.runs, server.runs, strict=True):
        refills = round((moved - least) / stock)
        (refilled if refills else plain).append((refills, used + other, max(seconds, waited)))
    if not plain or not refilled:
        raise RuntimeError("No run refilled its stocks, or each did: choose another number of comparisons.")
    quickest = [min(run[index] for run in plain) for index in (1, 2)]
    cpu, passed = (float(np.median([(run[index + 1] - quickest[index]) / run[0] for run in refilled])) for index in range(2))
    return max(0.0, cpu), max(0.0, passed)


def _machine() -> str:
    """What the seconds were taken on."""
    import os

    return f"{processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}"
