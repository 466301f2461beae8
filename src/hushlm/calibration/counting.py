"""Counting exactly what steps move: two real processes run each distinct step of a plan on random values.

Bytes depend on shapes alone, so that a step of a large model can be counted without the model. Each step is run once without being
counted, and then `repeats` times. The engine refills its stock of oblivious transfers now and then, so that the mean of many repeats is
the steady state.
"""

from __future__ import annotations

import resource
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hushlm.calibration.both_parties import stream_both
from hushlm.plan import Plan, Step, Value, input_shapes, stored_shapes
from hushlm.private.engine import Engine, EngineSettings, Party
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.step_programs import step_program

__all__ = ["StepCount", "count_steps", "distinct_steps", "run_step"]


@dataclass(frozen=True)
class StepCount:
    """What one step moved in the mean.

    Attributes:
        step: the step that was counted.
        client, server: the mean traffic at each party; what one party sent, the other received.
        client_peak_bytes, server_peak_bytes: the largest resident memory of each process so far.
    """

    step: Step
    client: Traffic
    server: Traffic
    client_peak_bytes: int
    server_peak_bytes: int


def distinct_steps(plans: Sequence[Plan]) -> list[tuple[Plan, Step]]:
    """One step for each distinct program of some plans, in the order of their first appearance."""
    found: dict[Hashable, tuple[Plan, Step]] = {}
    for plan in plans:
        for step in plan.steps:
            found.setdefault(step_program(plan, step).key, (plan, step))
    return list(found.values())


def run_step(engine: Engine, backend: EngineBackend, plan: Plan, step: Step, repeats: int) -> list[Traffic]:
    """Run a step `repeats` times on random values, at the same time as the other party.

    Returns:
        What each run moved, as this party counted it.
    """
    random, program, names = np.random.default_rng(0), step_program(plan, step), []
    for value, shape in zip(program.inputs, input_shapes(plan, step), strict=True):
        if value.is_public:
            backend.put_public(value, np.tril(np.ones(shape)))
            names.append(str(value))
            continue
        for owner in Party:
            backend.put(f"{value}.{owner.name}", owner, shape, random.uniform(0.1, 1.0, shape) if engine.party is owner else None)
        if value is Value.ONE_HOT:
            # The client knows this value itself; it is not shared.
            names.append(f"{value}.CLIENT")
            continue
        backend.run("add", lambda xp: lambda a, b: a + b, (f"{value}.CLIENT", f"{value}.SERVER"), (value,), ())
        names.append(str(value))
    for tensor in program.tensors:
        own = random.uniform(-0.1, 0.1, tensor.shape) if engine.party is Party.SERVER else None
        backend.put(tensor.name, Party.SERVER, tensor.shape, own)
    tensors = [tensor.name for tensor in program.tensors]
    outputs = [f"out.{i}" for i in range(len(program.outputs))]
    runs = [backend.run(program.key, program.build, [*names, *tensors], outputs, program.public) for _ in range(repeats)]
    for name in {*tensors, *outputs, *names}:
        engine.delete(name)
    return runs


def _count_at_party(
    engine: Engine, work: Sequence[tuple[Plan, Step]], repeats: int, resident: Sequence[Plan]
) -> Iterator[tuple[Traffic, int]]:
    """The mean traffic of each step at one party, and the party's largest resident memory so far."""
    backend = EngineBackend(engine)
    for plan in resident:
        for name, shape in stored_shapes(plan).items():
            backend.put(f"resident.{name}", Party.SERVER, shape, np.zeros(shape) if engine.party is Party.SERVER else None)
    for plan, step in work:
        runs = run_step(engine, backend, plan, step, repeats + 1)
        yield _mean(runs[1:] if repeats else runs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _mean(runs: Sequence[Traffic]) -> Traffic:
    total = sum(runs, Traffic())
    count = len(runs)
    return replace(
        total,
        sent_bytes=round(total.sent_bytes / count),
        received_bytes=round(total.received_bytes / count),
        sent_messages=round(total.sent_messages / count),
        received_messages=round(total.received_messages / count),
        seconds=total.seconds / count,
        operations={},
    )


def count_steps(
    work: Sequence[tuple[Plan, Step]], settings: EngineSettings, repeats: int = 2, resident: Sequence[Plan] = ()
) -> list[StepCount]:
    """Run every step in two processes over loopback, and count what they move. There is no TLS, which does not change the payload.

    Args:
        work: the steps, each with the plan that it belongs to.
        settings: the engine's settings.
        repeats: how many runs are counted after an uncounted one; with 0 the first run is counted.
        resident: plans whose server tensors are all kept in memory meanwhile, so that the peak memory is that of a real server.

    Raises:
        RuntimeError: if a party dies.
    """
    counts: list[StepCount] = []
    try:
        for (client, client_peak), (server, server_peak) in stream_both(_count_at_party, (work, repeats, resident), settings):
            counts.append(StepCount(work[len(counts)][1], client, server, client_peak, server_peak))
    except RuntimeError as error:
        raise RuntimeError(f"A party died while counting {work[len(counts)][1]}.") from error
    return counts
