"""Count what steps move, exactly: two real processes run each distinct step of a plan on random values.

Bytes depend on shapes alone, so that a step of a large model can be counted without the model. Steps are run `repeats` times after
one uncounted run; the engine refills its stock of oblivious transfers now and then, so that the mean over repeats is the steady state.
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
from hushlm.private.program.wiring import step_program

__all__ = ["StepCount", "count_steps", "distinct_steps", "run_step"]


@dataclass(frozen=True)
class StepCount:
    """What one step moved in steady state.

    Attributes:
        step: the step that was counted.
        client, server: mean traffic at each party; sent and received are mirror images.
        client_peak_bytes, server_peak_bytes: largest resident memory of each process so far.
    """

    step: Step
    client: Traffic
    server: Traffic
    client_peak_bytes: int
    server_peak_bytes: int


def distinct_steps(plans: Sequence[Plan]) -> list[tuple[Plan, Step]]:
    """One step for each program that differs, in order of first appearance."""
    found: dict[Hashable, tuple[Plan, Step]] = {}
    for plan in plans:
        for step in plan.steps:
            found.setdefault(step_program(plan, step).key, (plan, step))
    return list(found.values())


def run_step(engine: Engine, backend: EngineBackend, plan: Plan, step: Step, repeats: int) -> list[Traffic]:
    """Run a step `repeats` times on random values, in step with the other party; what each run moved, seen from this one."""
    random, program, names = np.random.default_rng(0), step_program(plan, step), []
    for value, shape in zip(program.inputs, input_shapes(plan, step), strict=True):
        if value.is_public:
            backend.put_public(value, np.tril(np.ones(shape)))
            names.append(str(value))
            continue
        for owner in Party:
            backend.put(f"{value}.{owner.name}", owner, shape, random.uniform(0.1, 1.0, shape) if engine.party is owner else None)
        if value is Value.ONE_HOT:
            # A client's own value, not a share.
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
    """The mean traffic of each step, and the largest resident memory so far."""
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
    """Run every step in two processes over loopback and count. There is no TLS: payload bytes are the same.

    Args:
        work: the steps, each with the plan that it belongs to.
        settings: the engine's settings.
        repeats: counted runs after an uncounted one; 0 counts the first.
        resident: plans whose server tensors are all in memory meanwhile, so that peaks are those of a real server.

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
