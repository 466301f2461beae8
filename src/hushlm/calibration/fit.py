"""Fitting the constants of the cost model to real runs of micro-programs at two parties.

The model is linear in its constants, so that they are fitted by least squares of relative errors, with no constant below zero. Bytes and
seconds (both CPU seconds and those that pass) are counted over loopback; round trips are counted through a relay with a known delay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

from hushlm.calibration.both_parties import Link, run_both
from hushlm.calibration.micro_programs import LOCAL_PROGRAMS, MICRO_PROGRAMS, SERIES, SQUARINGS, UNPACKED_PROGRAMS, MicroProgram
from hushlm.cost.constants import CalibratedConstants, Constants, Residual, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import Primitives
from hushlm.cost.program_overhead import overhead_seconds
from hushlm.plan import ProtocolSettings
from hushlm.private.engine import Engine, EngineSettings, Party, compile_program, engine_version

__all__ = ["Counted", "Measurements", "calibrate", "count_programs", "fit", "least_squares", "measure"]

DELAY = Link(round_trip_seconds=0.2, bits_per_second=10e9)
SERIES_RUNS = 80
REFITS = 8
SHORTEST_SECONDS = 0.002
"""A run that takes less time than this is weighted as if it took this long."""


@dataclass(frozen=True)
class Counted:
    """What one party counted in the runs of one micro-program.

    Attributes:
        forward, back: the bytes of each run, to the other party and from it.
        seconds: the median of the seconds that the runs took, without the first, which may pay for set-up.
        cpu_seconds: the median of the CPU seconds of this party's process, without the first run.
        lines: how many lines the compiled program has.
    """

    forward: tuple[int, ...]
    back: tuple[int, ...]
    seconds: float
    cpu_seconds: float
    lines: int


@dataclass(frozen=True)
class Measurements:
    """What was counted. Where a field has two parts, the first is the client's and the second the server's; other fields are the client's.

    Attributes:
        programs: the runs of `MICRO_PROGRAMS`, and after them of `LOCAL_PROGRAMS`, at both parties.
        worker: the first runs of a session that need an OT worker.
        slots: the first runs of a session that need the keys for elementwise products.
        products: the first runs of a session that need the keys for matrix products.
        series: the runs of `SERIES`.
        opened: the number of elements of each result that was opened, and the bytes that opening it moved.
        unpacked: the runs of `UNPACKED_PROGRAMS` without packing at both parties, or None where nothing was timed.
        delayed: the seconds of `MICRO_PROGRAMS` over `DELAY`, or None where nothing was timed.
    """

    programs: tuple[Sequence[Counted], Sequence[Counted]]
    worker: Counted
    slots: Counted
    products: Counted
    series: Counted
    opened: Sequence[tuple[int, int]]
    unpacked: tuple[Sequence[Counted], Sequence[Counted]] | None = None
    delayed: Sequence[float] | None = None


def _install(engine: Engine, program: MicroProgram) -> list[str]:
    """Install random arguments of a micro-program, and return the names of their variables."""
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
    later = slice(min(1, repeats - 1), None)
    return Counted(
        forward=tuple(r.sent_bytes for r in runs),
        back=tuple(r.received_bytes for r in runs),
        seconds=float(np.median([r.seconds for r in runs[later]])),
        cpu_seconds=float(np.median(used[later])),
        lines=executable.lines,
    )


OF_TRANSFERS = ("ask_rounds", "ferret_worker_seconds", "softspoken_worker_seconds", "ask_seconds", "asked_transfer_seconds")
"""Constants of how oblivious transfers are made: no micro-program with Ferret tells them, so that a fit keeps them. They are from
benchmarks/transfers.py."""

PROGRAMS = {"packed": (*MICRO_PROGRAMS, *LOCAL_PROGRAMS), "unpacked": UNPACKED_PROGRAMS, "delayed": MICRO_PROGRAMS}


def count_programs(engine: Engine, kind: Literal["packed", "unpacked", "delayed"], repeats: int) -> list[Counted]:
    """Run each micro-program of a kind `repeats` times. Both parties call this at the same time, in processes of their own."""
    return [_count(engine, program, repeats) for program in PROGRAMS[kind]]


def _count_all(engine: Engine, repeats: int) -> dict[str, Any]:
    """Count the first runs of a fresh session, all micro-programs, a series that needs refills, and results that are opened."""
    by_name = {program.name: program for program in MICRO_PROGRAMS}
    fresh = {
        kind: _count(engine, by_name[name], 2)
        for kind, name in (("worker", "compare 64"), ("slots", "exponential 64"), ("products", "product 1x64x64"))
    }
    programs = count_programs(engine, "packed", repeats)
    series = _count(engine, SERIES, SERIES_RUNS)
    opened = []
    for n in (1, 1000):
        engine.put("opened", Party.SERVER, (n,), np.ones(n) if engine.party is Party.SERVER else None)
        _, traffic = engine.reveal("opened", Party.CLIENT)
        opened.append((n, traffic.sent_bytes + traffic.received_bytes))
    return {**fresh, "programs": programs, "series": series, "opened": opened}


def measure(repeats: int, timings: bool) -> Measurements:
    """Run all micro-programs in two processes.

    Args:
        repeats: how many times each is run.
        timings: whether to run them also without packing and over `DELAY`, which seconds and round trips are fitted to.

    Raises:
        ValueError: where the engine is not installed.
    """
    settings = EngineSettings(exponential_squarings=SQUARINGS)
    client, server = run_both(_count_all, (repeats,), settings)
    found = Measurements(**{**client, "programs": (client["programs"], server["programs"])})
    if not timings:
        return found
    bare = replace(settings, pack_products=False)
    delayed, _ = run_both(count_programs, ("delayed", 2), settings, DELAY)
    return replace(found, unpacked=run_both(count_programs, ("unpacked", repeats), bare), delayed=[counted.seconds for counted in delayed])


def _columns(kind: str) -> list[str]:
    """The names of the constants of one kind, which is "_seconds", "_rounds", or "" for bytes."""
    names = [field.name for field in fields(Constants) if field.name not in OF_TRANSFERS]
    if kind:
        return [name for name in names if name.endswith(kind)]
    special = ("answer_base", "answer_element", "refill", "worker_set_up", "slot_keys", "product_keys")
    return [name for name in names if not name.endswith(("_seconds", "_rounds")) and name not in special]


def _design(
    names: list[str], settings: ProtocolSettings, read: Callable[[Exchange], float], programs: Sequence[MicroProgram]
) -> np.ndarray:
    """How many units of each constant every micro-program takes, found by evaluating the model on unit vectors."""
    units = [Primitives(replace(Constants(), **{name: 1.0}), settings) for name in names]
    return np.array([[read(program.price(unit)) for unit in units] for program in programs])


def least_squares(design: np.ndarray, counted: np.ndarray, floor: float, rounds: int = 1) -> np.ndarray:
    """Fit constants by least squares of relative errors, with no constant below zero.

    Args:
        design: how many units of each constant every run takes.
        counted: what was counted in each run.
        floor: a smaller count is weighted as if it were as large as this.
        rounds: how many fits to make. In the first, errors are relative to what was counted. In each further one they are relative to the
            geometric mean of that and of what the last fit predicted, because predicting too little would otherwise cost less than
            predicting too much.
    """
    from scipy.optimize import nnls

    weight = 1 / np.maximum(counted, floor)
    for _ in range(rounds):
        values = nnls(design * weight[:, None], counted * weight)[0]
        weight = 1 / np.sqrt(np.maximum(counted, floor) * np.maximum(design @ values, floor))
    return values


def _seconds(program: MicroProgram, lines: int, constants: Constants, settings: ProtocolSettings) -> float:
    """The seconds of a micro-program by the model, with those of its messages and lines."""
    exchange = program.price(Primitives(constants, settings))
    return exchange.cpu_seconds + overhead_seconds(exchange, lines, constants)


def _fit_seconds(measured: Measurements, settings: ProtocolSettings, read: Callable[[Counted, Counted], float]) -> dict[str, float]:
    """Fit the constants in seconds to what `read` returns for what the client and the server counted of each micro-program."""
    assert measured.unpacked is not None
    names = _columns("_seconds")
    units = [replace(Constants(), **{name: 1.0}) for name in names]
    design, counted = [], []
    for programs, both, used in (
        (PROGRAMS["packed"], measured.programs, settings),
        (UNPACKED_PROGRAMS, measured.unpacked, replace(settings, pack_products=False)),
    ):
        for program, client, server in zip(programs, *both, strict=True):
            design.append([_seconds(program, client.lines, unit, used) for unit in units])
            counted.append(read(client, server))
    return dict(zip(names, map(float, least_squares(np.array(design), np.array(counted), SHORTEST_SECONDS, REFITS)), strict=True))


def _first_run(counted: Counted) -> float:
    """How many more bytes the first run moved than the second, in each direction."""
    return (counted.forward[0] + counted.back[0] - counted.forward[1] - counted.back[1]) / 2


def fit(measured: Measurements, kept: CalibratedConstants, settings: ProtocolSettings, engine: str) -> CalibratedConstants:
    """Fit all constants to measurements.

    Args:
        measured: what was counted.
        kept: the constants of the last fit. Their seconds and round trips stay where none were measured, and their version counts up.
        settings: the settings with which the measurements were made.
        engine: the engine's name.
    """
    client, server = measured.programs
    calls = client[: len(MICRO_PROGRAMS)]
    # A run may pay for a refill, but the one with the fewest bytes does not.
    forward, back = (np.array([min(getattr(run, way)) for run in calls], float) for way in ("forward", "back"))
    names = _columns("")
    ways: tuple[Callable[[Exchange], float], ...] = (lambda e: e.forward_bytes, lambda e: e.back_bytes)
    design = np.concatenate([_design(names, settings, way, MICRO_PROGRAMS) for way in ways])
    values = dict(zip(names, map(float, least_squares(design, np.concatenate([forward, back]), 1.0)), strict=True))
    (small, base), (large, more) = measured.opened
    values["refill"] = float(max(measured.series.forward[1:]) - min(measured.series.forward))
    values["answer_element"] = (more - base) / (large - small)
    values["answer_base"] = base - small * values["answer_element"]
    values["worker_set_up"] = _first_run(measured.worker)
    values["slot_keys"] = _first_run(measured.slots)
    values["product_keys"] = _first_run(measured.products)
    of_transfers = {name: getattr(kept.elapsed, name) for name in OF_TRANSFERS if name.endswith("_seconds")}
    elapsed = {name: getattr(kept.elapsed, name) for name in _columns("_seconds")}
    values |= {name: getattr(kept.values, name) for name in (*_columns("_seconds"), *_columns("_rounds"), *OF_TRANSFERS)}
    if measured.unpacked is not None:
        values |= _fit_seconds(measured, settings, lambda a, b: a.cpu_seconds + b.cpu_seconds)
        elapsed = _fit_seconds(measured, settings, lambda a, b: (a.seconds + b.seconds) / 2)
    if measured.delayed is not None:
        trips = np.maximum(np.array(measured.delayed) - [run.seconds for run in calls], 0) / DELAY.round_trip_seconds
        rounds = _columns("_rounds")
        values |= dict(
            zip(rounds, map(float, least_squares(_design(rounds, settings, lambda e: e.rounds, MICRO_PROGRAMS), trips, 1.0)), strict=True)
        )
    constants = Constants(**values)
    timed = replace(constants, **elapsed, **of_transfers)
    residuals = tuple(
        Residual(
            program.name,
            float(min(mine.forward) + min(mine.back)),
            program.price(Primitives(constants, settings)).total_bytes,
            (mine.seconds + theirs.seconds) / 2,
            _seconds(program, mine.lines, timed, settings),
        )
        for program, mine, theirs in zip(PROGRAMS["packed"], client, server, strict=True)
    )
    return CalibratedConstants(engine, kept.version + 1, settings.fraction_bits, settings.threads, constants, timed, residuals)


def calibrate(repeats: int = 5, timings: bool = True) -> CalibratedConstants:
    """Run every micro-program in two processes and fit the constants to what was counted.

    Args:
        repeats: how many times each micro-program is run.
        timings: whether to fit seconds and round trips too; otherwise those of the packaged constants are kept.

    Raises:
        ValueError: where the engine is not installed.
    """
    settings = EngineSettings()
    return fit(measure(repeats, timings), load_constants(), settings, engine_version())
