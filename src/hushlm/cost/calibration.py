"""Refits the protocol model's constants from real two-party micro-runs.

Every micro-program is one or two primitive calls; the model is linear in its constants, so that bytes are fitted by least squares
on relative errors, seconds and round trips by the same with no negative values. Loopback gives bytes and CPU seconds, a relay with a
known delay the round trips.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from hushlm.cost.constants import CalibratedConstants, Constants, Residual, load_constants
from hushlm.cost.exchange import Exchange, Protocol
from hushlm.cost.primitives import Primitives
from hushlm.cost.two_party import Link, run_both
from hushlm.private.engine import Engine, EngineSettings, Party, compile_program, engine_version

__all__ = ["MICRO_PROGRAMS", "MicroProgram", "calibrate"]

Price = Callable[[Primitives], Exchange]
DELAY = Link(round_trip_seconds=0.2, bits_per_second=10e9)
SQUARINGS = 2
SERIES_ELEMENTS = 65_536
SERIES_RUNS = 6


@dataclass(frozen=True)
class MicroProgram:
    """One program to count.

    Attributes:
        name: for the table of residuals.
        build: of the array program, from jax.numpy.
        arguments: shape and owner of each; None for a shared value.
        price: the model's account of it.
        timed: whether its seconds and round trips are fitted, too.
    """

    name: str
    build: Callable[[Any], Callable[..., Any]]
    arguments: tuple[tuple[tuple[int, ...], Party | None], ...]
    price: Price
    timed: bool = True


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
"""Products with many responses, for the time of one; run without packing."""


@dataclass(frozen=True)
class Counted:
    """Bytes of each run at this party; wall time of the fastest, and the least CPU time of this party's process."""

    forward: tuple[int, ...]
    back: tuple[int, ...]
    seconds: float
    cpu_seconds: float


def _install(engine: Engine, program: MicroProgram) -> list[str]:
    random, names = np.random.default_rng(0), []
    for index, (shape, owner) in enumerate(program.arguments):
        value, name = random.uniform(0.2, 1.5, shape), f"x{index}"
        if owner is None:
            for one in Party:
                engine.put(f"part{int(one)}", one, shape, value / 2 if engine.party is one else None)
            joined = compile_program(lambda a, b: a + b, [shape, shape], 1, "join").renamed(["part0", "part1"], [name])
            engine.run(joined)
        else:
            engine.put(name, owner, shape, value if engine.party is owner else None)
        names.append(name)
    return names


def _count(engine: Engine, program: MicroProgram, repeats: int) -> Counted:
    import jax.numpy as jnp

    names = _install(engine, program)
    executable = compile_program(program.build(jnp), [shape for shape, _ in program.arguments], 1, "micro").renamed(names, ["result"])
    runs, used = [], []
    for _ in range(repeats):
        start = time.process_time()
        runs.append(engine.run(executable))
        used.append(time.process_time() - start)
    # The first run may pay for set-up.
    later = slice(min(1, repeats - 1), None)
    sent, received = tuple(r.sent_bytes for r in runs), tuple(r.received_bytes for r in runs)
    return Counted(sent, received, min(r.seconds for r in runs[later]), min(used[later]))


def _count_all(engine: Engine, repeats: int) -> dict[str, Any]:
    """All micro-programs, the first runs of a fresh session, a series that needs refills, and opened results."""
    fresh = {
        "worker": _count(engine, next(p for p in MICRO_PROGRAMS if p.name == "compare 64"), 2),
        "slots": _count(engine, next(p for p in MICRO_PROGRAMS if p.name.startswith("exponential 64")), 2),
        "products": _count(engine, next(p for p in MICRO_PROGRAMS if p.name.startswith("product 1x64x64")), 2),
    }
    programs = [_count(engine, program, repeats) for program in MICRO_PROGRAMS]
    series = _count(engine, _of_vector("series", SERIES_ELEMENTS, lambda xp: lambda x: x < 0.0, Primitives.compare), SERIES_RUNS)
    opened = []
    for n in (1, 1000):
        engine.put("opened", Party.SERVER, (n,), np.ones(n) if engine.party is Party.SERVER else None)
        _, traffic = engine.reveal("opened", Party.CLIENT)
        opened.append((n, traffic.sent_bytes + traffic.received_bytes))
    return {"fresh": fresh, "programs": programs, "series": series, "opened": opened}


def _count_unpacked(engine: Engine, repeats: int) -> list[Counted]:
    return [_count(engine, program, repeats) for program in UNPACKED_PROGRAMS]


def _count_delayed(engine: Engine, repeats: int) -> list[Counted]:
    return [_count(engine, program, repeats) for program in MICRO_PROGRAMS]


def _columns(kind: str) -> list[str]:
    """Names of the constants of a kind: "_seconds", "_rounds", or "" for bytes."""
    names = [field.name for field in fields(Constants)]
    if kind:
        return [name for name in names if name.endswith(kind)]
    special = ("answer_base", "answer_element", "refill", "worker_set_up", "slot_keys", "product_keys")
    return [name for name in names if not name.endswith(("_seconds", "_rounds")) and name not in special]


def _design(
    names: list[str], protocol: Protocol, read: Callable[[Exchange], float], programs: Sequence[MicroProgram] = MICRO_PROGRAMS
) -> np.ndarray:
    """How much of each constant every micro-program takes: the model evaluated on unit vectors."""
    columns = []
    for name in names:
        unit = Primitives(replace(Constants(), **{name: 1.0}), protocol)
        columns.append([read(program.price(unit)) for program in programs])
    return np.array(columns).T


def _fit(design: np.ndarray, counted: np.ndarray, floor: float) -> np.ndarray:
    """Least squares of relative errors, no constant below zero; what is below `floor` counts as if it were as large."""
    from scipy.optimize import nnls

    weight = 1 / np.maximum(counted, floor)
    return nnls(design * weight[:, None], counted * weight)[0]


def _cpu(exchange: Exchange) -> float:
    return exchange.cpu_seconds


def _first_run(counted: Counted) -> float:
    """What the first run moved more than the second, a direction."""
    return (counted.forward[0] + counted.back[0] - counted.forward[1] - counted.back[1]) / 2


def calibrate(repeats: int = 3, timings: bool = True) -> CalibratedConstants:
    """Run every micro-program in two processes and fit the constants to what was counted.

    Args:
        repeats: runs of each; bytes are the fewest (a run may pay for a refill), seconds the fastest.
        timings: also fit CPU seconds and round trips; otherwise those of the packaged constants are kept.

    Raises:
        ValueError: where the engine is not installed.
    """
    settings = EngineSettings(exponential_squarings=SQUARINGS)
    protocol = Protocol(workers=settings.threads)
    name = engine_version()
    kept = load_constants()
    result, other = run_both(_count_all, (repeats,), settings)
    programs: list[Counted] = result["programs"]
    forward, back = (np.array([min(getattr(run, way)) for run in programs], float) for way in ("forward", "back"))
    bytes_names = _columns("")
    design = np.concatenate(
        [_design(bytes_names, protocol, lambda e: e.forward_bytes), _design(bytes_names, protocol, lambda e: e.back_bytes)]
    )
    values = dict(zip(bytes_names, _fit(design, np.concatenate([forward, back]), 1.0), strict=True))

    series, opened = result["series"], result["opened"]
    (small, base), (large, more) = opened
    values["refill"] = (max(series.forward[1:]) - min(series.forward)) / protocol.workers
    values["answer_element"] = (more - base) / (large - small)
    values["answer_base"] = base - small * values["answer_element"]
    values["worker_set_up"] = _first_run(result["fresh"]["worker"])
    values["slot_keys"] = _first_run(result["fresh"]["slots"])
    values["product_keys"] = _first_run(result["fresh"]["products"])

    if timings:
        seconds = np.array([run.seconds for run in programs])
        cpu = np.array([mine.cpu_seconds + theirs.cpu_seconds for mine, theirs in zip(programs, other["programs"], strict=True)])
        cpu_names, round_names = _columns("_seconds"), _columns("_rounds")
        bare, other_bare = run_both(_count_unpacked, (repeats,), replace(settings, pack_products=False))
        cpu_bare = np.array([mine.cpu_seconds + theirs.cpu_seconds for mine, theirs in zip(bare, other_bare, strict=True)])
        packed_design = _design(cpu_names, protocol, _cpu)
        bare_design = _design(cpu_names, replace(protocol, packing=False), _cpu, UNPACKED_PROGRAMS)
        fitted_cpu = _fit(np.concatenate([packed_design, bare_design]), np.concatenate([cpu, cpu_bare]), 0.002)
        values |= dict(zip(cpu_names, fitted_cpu, strict=True))
        delayed, _ = run_both(_count_delayed, (repeats,), settings, DELAY)
        waited = np.array([run.seconds for run in delayed]) - seconds
        trips = np.maximum(waited, 0) / DELAY.round_trip_seconds
        values |= dict(zip(round_names, _fit(_design(round_names, protocol, lambda e: e.rounds), trips, 1.0), strict=True))
    else:
        values |= {n: getattr(kept.values, n) for n in (*_columns("_seconds"), *_columns("_rounds"))}

    constants = Constants(**{key: float(value) for key, value in values.items()})
    fitted = Primitives(constants, protocol)
    residuals = tuple(
        Residual(program.name, float(f + b), program.price(fitted).total_bytes)
        for program, f, b in zip(MICRO_PROGRAMS, forward, back, strict=True)
    )
    return CalibratedConstants(name, kept.version + 1, settings.fraction_bits, settings.threads, constants, residuals)
