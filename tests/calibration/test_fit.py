"""The fit gives back what measurements were made of, and what runs without packing is what the model says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from hushlm.calibration.both_parties import run_both
from hushlm.calibration.fit import DELAY, PROGRAMS, SERIES_RUNS, Counted, Measurements, count_programs, fit
from hushlm.calibration.micro_programs import MICRO_PROGRAMS, SERIES, SQUARINGS, UNPACKED_PROGRAMS, MicroProgram
from hushlm.cost.constants import CalibratedConstants, Constants, load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.primitives import TRANSFER_STOCK, Primitives
from hushlm.cost.program_overhead import overhead_seconds
from hushlm.plan import ProtocolSettings
from hushlm.private.engine import EngineSettings

SETTINGS = ProtocolSettings()


def made_up() -> tuple[Constants, Constants]:
    """Bytes and round trips as packaged; CPU seconds, and seconds that pass, drawn at random."""
    random, packaged = np.random.default_rng(0), load_constants().values
    names = [field.name for field in fields(Constants) if field.name.endswith("_seconds")]
    cpu, elapsed = (replace(packaged, **{name: float(random.uniform(1e-5, 1e-3)) for name in names}) for _ in range(2))
    return cpu, elapsed


def seconds(program: MicroProgram, lines: int, constants: Constants, settings: ProtocolSettings) -> float:
    exchange = program.price(Primitives(constants, settings))
    return exchange.cpu_seconds + overhead_seconds(exchange, lines, constants)


def counted(program: MicroProgram, lines: int, cpu: Constants, elapsed: Constants, settings: ProtocolSettings) -> tuple[Counted, Counted]:
    """Both parties' account of runs that go exactly as the constants say; the first run of all pays for set-up."""
    exchange = program.price(Primitives(cpu, settings))
    ways = round(exchange.forward_bytes), round(exchange.back_bytes)
    passed, used = seconds(program, lines, elapsed, settings), seconds(program, lines, cpu, settings)
    client = Counted((ways[0] + 1000, ways[0]), (ways[1] + 1000, ways[1]), passed, 0.25 * used, lines)
    return client, replace(client, forward=client.back, back=client.forward, cpu_seconds=0.75 * used)


def measurements(cpu: Constants, elapsed: Constants) -> Measurements:
    def of(kind: str, settings: ProtocolSettings) -> tuple[list[Counted], list[Counted]]:
        pairs = [counted(program, 5 + 7 * index % 60, cpu, elapsed, settings) for index, program in enumerate(PROGRAMS[kind])]
        return [client for client, _ in pairs], [server for _, server in pairs]

    programs = of("packed", SETTINGS)
    first = programs[0][0]
    series = replace(counted(SERIES, 5, cpu, elapsed, SETTINGS)[0], forward=(10, 10, 10 + round(cpu.refill)), back=(0, 0, 0))
    rounds: Callable[[MicroProgram], float] = lambda program: program.price(Primitives(cpu, SETTINGS)).rounds  # noqa: E731
    delayed = [run.seconds + DELAY.round_trip_seconds * rounds(program) for run, program in zip(programs[0], MICRO_PROGRAMS, strict=False)]
    opened = [(n, round(cpu.answer_base + n * cpu.answer_element)) for n in (1, 1000)]
    return Measurements(programs, first, first, first, series, opened, of("unpacked", replace(SETTINGS, pack_products=False)), delayed)


def test_the_fit_gives_back_what_the_measurements_were_made_of() -> None:
    cpu, elapsed = made_up()
    kept = load_constants()
    fitted = fit(measurements(cpu, elapsed), kept, SETTINGS, "an engine")
    assert (fitted.engine, fitted.version) == ("an engine", kept.version + 1)
    reads: dict[str, Callable[[Exchange], float]] = {
        "forward": lambda exchange: exchange.forward_bytes,
        "back": lambda exchange: exchange.back_bytes,
        "rounds": lambda exchange: exchange.rounds,
    }
    for program in MICRO_PROGRAMS:
        for name, read in reads.items():
            ours, theirs = (read(program.price(Primitives(constants, SETTINGS))) for constants in (fitted.values, cpu))
            assert ours == pytest.approx(theirs, rel=1e-3, abs=1), (program.name, name)
    for kind, settings in (("packed", SETTINGS), ("unpacked", replace(SETTINGS, pack_products=False))):
        for program in PROGRAMS[kind]:
            for found, given in ((fitted.values, cpu), (fitted.elapsed, elapsed)):
                assert seconds(program, 20, found, settings) == pytest.approx(seconds(program, 20, given, settings), rel=1e-3), program.name
    assert fitted.values.refill == pytest.approx(cpu.refill, abs=1)
    assert fitted.values.answer_element == pytest.approx(cpu.answer_element, rel=1e-3)
    assert fitted.values.slot_keys == 1000
    assert max(abs(residual.relative) for residual in fitted.residuals) < 1e-3
    assert CalibratedConstants.from_json(fitted.to_json()) == fitted


def test_what_was_not_measured_is_kept() -> None:
    cpu, elapsed = made_up()
    kept = load_constants()
    fitted = fit(replace(measurements(cpu, elapsed), unpacked=None, delayed=None), kept, SETTINGS, "an engine")
    for field in fields(Constants):
        if field.name.endswith(("_seconds", "_rounds")):
            assert getattr(fitted.values, field.name) == getattr(kept.values, field.name)
            assert getattr(fitted.elapsed, field.name) == getattr(kept.elapsed, field.name)


def test_the_series_needs_one_refill_of_one_worker() -> None:
    exchange = SERIES.price(Primitives(load_constants().values, SETTINGS))
    (used,) = exchange.forward_transfers
    assert TRANSFER_STOCK < SERIES_RUNS * used < 2 * TRANSFER_STOCK


@pytest.mark.slow
@pytest.mark.two_party
def test_products_without_packing_are_counted_and_move_what_the_model_says() -> None:
    settings = EngineSettings(exponential_squarings=SQUARINGS, pack_products=False)
    client, server = run_both(count_programs, ("unpacked", 2), settings)
    unpacked = Primitives(load_constants().values, replace(SETTINGS, pack_products=False))
    for program, mine, theirs in zip(UNPACKED_PROGRAMS, client, server, strict=True):
        assert (mine.forward, mine.back) == (theirs.back, theirs.forward)
        assert mine.seconds > 0
        assert mine.cpu_seconds + theirs.cpu_seconds > 0
        assert mine.lines > 3
        # The first run makes keys.
        assert mine.forward[1] + mine.back[1] == pytest.approx(program.price(unpacked).total_bytes, rel=2e-3)
