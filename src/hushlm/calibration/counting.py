"""Count what steps move, exactly: two real processes run each distinct step of a plan on random values.

Bytes depend on shapes alone, so a step of a large model can be counted without the model. Steps are run `repeats` times after
one uncounted run; the engine refills its stock of oblivious transfers now and then, so the mean over repeats is the steady state.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import socket
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import numpy as np

from hushlm.plan import Gate, Plan, Rotate, Step
from hushlm.private.engine import Channel, Engine, EngineSettings, Party
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.wiring import step_program, weight_names, weight_shapes

__all__ = ["StepCount", "count_steps", "distinct_steps", "run_step"]


@dataclass(frozen=True)
class StepCount:
    """What one step moved in steady state.

    Attributes:
        step: the step.
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
    found: dict[tuple, tuple[Plan, Step]] = {}
    for plan in plans:
        for step in plan.steps:
            found.setdefault(step_program(plan, step).key, (plan, step))
    return list(found.values())


def value_shapes(plan: Plan, step: Step) -> dict[str, tuple[int, ...]]:
    """Shapes of the values a step reads."""
    operation, shape = step.operation, plan.shape
    rows: int = getattr(operation, "rows", 1)
    width: int = getattr(operation, "inner", getattr(operation, "width", shape.width))
    keys: int = getattr(operation, "keys", plan.keys)
    heads, head_width = shape.heads, shape.head_width
    late = plan.rewrites.divide_late
    shapes = {
        "one_hot": (rows, shape.vocabulary),
        "x": (rows, width),
        "h": (rows, width),
        "x_last": (1, shape.width),
        "h_last": (1, shape.width),
        "q": (heads, rows, head_width),
        "k": (heads, keys, head_width),
        "v": (heads, keys, head_width),
        "s": (heads, rows, keys),
        "mask": (rows, keys),
        "e": (heads, rows, keys),
        "z": (heads, rows),
        "o": (heads, rows, head_width),
        "f": (rows, width),
        "logits": (rows, shape.vocabulary),
    }
    if step.name in ("attention_output", "ffn_contract", "ffn"):
        shapes["x"] = (rows, shape.width)
    if step.name == "divide" and not late:
        shapes["e"] = (heads, rows, keys)
    if isinstance(operation, Gate):
        shapes["f"] = (rows, 2 * width)
    if isinstance(operation, Rotate):
        shapes |= {"q": (heads, operation.queries, head_width), "k": (heads, rows, head_width)}
        shapes |= {"turns_query": (2, operation.queries, operation.width), "turns": (2, rows, operation.width)}
    return {name: shapes[name] for name in step_program(plan, step).inputs}


def run_step(engine: Engine, backend: EngineBackend, plan: Plan, step: Step, repeats: int) -> list[Traffic]:
    """Run a step `repeats` times on random values, in step with the other party; what each run moved, seen from this one."""
    random, program, names = np.random.default_rng(0), step_program(plan, step), []
    for name, shape in value_shapes(plan, step).items():
        if name in program.public:
            backend.put_public(name, np.tril(np.ones(shape)))
            names.append(name)
            continue
        for owner in Party:
            backend.put(f"{name}.{owner.name}", owner, shape, random.uniform(0.1, 1.0, shape) if engine.party is owner else None)
        if name == "one_hot":
            # A client's own value, not a share.
            names.append(f"{name}.CLIENT")
            continue
        backend.run("add", lambda xp: lambda a, b: a + b, (f"{name}.CLIENT", f"{name}.SERVER"), (name,), ())
        names.append(name)
    weights = weight_names(step, program)
    for name, (_, shape) in zip(weights, program.weights, strict=True):
        backend.put(name, Party.SERVER, shape, random.uniform(-0.1, 0.1, shape) if engine.party is Party.SERVER else None)
    outputs = [f"out.{i}" for i in range(len(program.outputs))]
    runs = [backend.run(program.key, program.build, [*names, *weights], outputs, program.public) for _ in range(repeats)]
    for name in {*weights, *outputs, *names}:
        engine.delete(name)
    return runs


def _party(
    party: Party,
    ports: tuple[int, int],
    settings: EngineSettings,
    work: list[tuple[Plan, Step]],
    repeats: int,
    resident: list[Plan],
    to: Connection,
) -> None:
    addresses = (f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    engine = Engine(party, settings, Channel(party, addresses, None))
    backend = EngineBackend(engine)
    for plan in resident:
        for name, shape in weight_shapes(plan).items():
            backend.put(f"resident.{name}", Party.SERVER, shape, np.zeros(shape) if party is Party.SERVER else None)
    for plan, step in work:
        runs = run_step(engine, backend, plan, step, repeats + 1)
        to.send((runs[1:] if repeats else runs, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
    to.send(None)
    to.recv()


def _mean(runs: list[Traffic]) -> Traffic:
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


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def count_steps(
    work: Sequence[tuple[Plan, Step]], settings: EngineSettings, repeats: int = 2, resident: Sequence[Plan] = ()
) -> list[StepCount]:
    """Run every step in two processes over loopback (no TLS: payload bytes are the same) and count.

    Args:
        work: steps and the plans they belong to.
        settings: the engine's.
        repeats: counted runs after an uncounted one; 0 counts the first.
        resident: plans whose server tensors are all in memory meanwhile, for honest peaks.

    Raises:
        RuntimeError: if a party dies.
    """
    context = multiprocessing.get_context("spawn")
    ports = _free_ports()
    pipes, processes = [], []
    for party in Party:
        here, there = context.Pipe()
        process = context.Process(target=_party, args=(party, ports, settings, list(work), repeats, list(resident), there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)
    counts = []
    try:
        for _, step in work:
            (client_runs, client_peak), (server_runs, server_peak) = (pipe.recv() for pipe in pipes)
            counts.append(StepCount(step, _mean(client_runs), _mean(server_runs), client_peak, server_peak))
    except EOFError as error:
        raise RuntimeError(f"A party died while counting {json.dumps(str(work[len(counts)][1]))}.") from error
    finally:
        for process in processes:
            process.kill()
            process.join()
    return counts
