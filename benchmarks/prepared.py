"""Prepared answers beside today's pass, whole, in one run: bytes, CPU seconds of both parties, messages and wall seconds.

    python benchmarks/prepared.py [--architecture SM2+R] [--layers 2 --heads 4 --width 64 --vocabulary 256] [--tokens 32] [--new_tokens 2]
        [--answers 1] [--without_today] [--json FILE]
    nice python benchmarks/prepared.py --layers 12 --heads 12 --width 768 --vocabulary 50257 --tokens 128        # GPT-2 small's shape

Two processes over loopback, random weights scaled like trained ones. "offline" makes the material of --answers answers in one go, and its
figures are divided by their number; "online" is the mean of the answers. "today" is the pass as it is served now, after its own set-up.
Wall seconds are a loopback's on a machine that may be busy; the load is printed. Answers are compared with the reference in float64.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from hushlm.architectures import parse
from hushlm.calibration.both_parties import stream_both
from hushlm.config import ModelShape
from hushlm.files import write_atomic
from hushlm.plan import Tensor, decode_plan, prefill_plan, server_tensors, whole_buckets
from hushlm.private.engine import Engine, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe
from hushlm.private.program.generate import PrivateGenerator

REVEAL = RevealPolicy()


@dataclass(frozen=True)
class Row:
    """What one phase cost; of both parties together, but wall seconds."""

    phase: str
    bytes: float
    cpu_seconds: float
    messages: float
    wall_seconds: float
    kept_bytes: int = 0
    tokens: tuple[int | None, ...] = ()


def weights_of_trained_size(description: ProgramDescription) -> dict[str, np.ndarray]:
    """Tensors of a program with the sizes that trained ones have: products keep the size of what they multiply."""
    architecture, shape = description.parsed_architecture, description.shape
    random, weights = np.random.default_rng(0), {}
    plans = [make(architecture, shape, shape.context, None, description.rewrites) for make in (prefill_plan, decode_plan)]
    for tensor in (each for plan in plans for step in plan.steps for each in server_tensors(plan, step)):
        stored = tensor.stored_shape(shape.context)
        scale = {Tensor.WEIGHT: stored[0] ** -0.5, Tensor.TABLE: 0.3, Tensor.INVERSE: 1.0}.get(tensor.tensor, 0.02)
        weights[tensor.name] = np.ones(stored) if tensor.tensor is Tensor.INVERSE else random.normal(size=stored) * scale
    for layer in range(shape.layers):
        query = weights[f"{layer}.query_key_value.weight"]
        query[:, : shape.width] *= shape.head_width**-0.5
        if layer == shape.layers - 1:
            weights[f"{layer}.query.weight"] = query[:, : shape.width].copy()
            weights[f"{layer}.key_value.weight"] = query[:, shape.width :].copy()
    return weights


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _phases(
    engine: Engine, description: ProgramDescription, prompt: list[int], new_tokens: int, answers: int, today: bool
) -> Iterator[Row]:
    """Rows of this party; messages and bytes are those it sent."""
    desk = Desk(engine)
    client, weights = desk.is_client, None if desk.is_client else weights_of_trained_size(description)
    mine = prompt if client else None

    def row(phase: str, start: tuple[float, float], sent: Traffic, count: int = 1, kept: int = 0, tokens: tuple = ()) -> Row:
        cpu, wall = _cpu_seconds() - start[0], time.perf_counter() - start[1]
        return Row(phase, sent.sent_bytes / count, cpu / count, sent.sent_messages / count, wall / count, kept, tokens)

    def now() -> tuple[float, float]:
        return _cpu_seconds(), time.perf_counter()

    generator = PreparedGenerator(desk, description, weights)
    start = now()
    yield row("set-up", start, generator.set_up())
    start = now()
    materials, sent = generator.prepare(len(prompt), new_tokens, answers)
    yield row("offline, an answer", start, sent, answers, materials[0].size_bytes)
    # A first answer compiles; its programs are kept.
    for number, material in enumerate(materials):
        start = now()
        for index, answer in enumerate(generator.generate(material, mine, len(prompt), new_tokens, REVEAL)):
            yield row(f"online, answer {number + 1}, token {index + 1}", start, answer.traffic, tokens=(answer.token,))
            start = now()
    if today:
        plain = PrivateGenerator(engine, description, weights)
        start = now()
        yield row("today, set-up", start, plain.set_up())
        for number in range(2 if answers > 1 else 1):
            start = now()
            for index, answer in enumerate(plain.generate(mine, len(prompt), new_tokens, REVEAL)):
                yield row(f"today, answer {number + 1}, token {index + 1}", start, answer.traffic, tokens=(answer.token,))
                start = now()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="SM2+R")
    for name, default in (
        ("layers", 2),
        ("heads", 4),
        ("width", 64),
        ("vocabulary", 256),
        ("tokens", 32),
        ("new_tokens", 2),
        ("answers", 1),
    ):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--without_today", action="store_true", help="leave out the pass as it is served now")
    parser.add_argument("--json", type=Path)
    a = parser.parse_args()
    prompt_length = a.tokens - a.new_tokens + 1
    shape = ModelShape(layers=a.layers, heads=a.heads, width=a.width, context=whole_buckets(a.tokens + 1), vocabulary=a.vocabulary)
    description = describe(parse(a.architecture), shape)
    prompt = np.random.default_rng(1).integers(0, a.vocabulary, prompt_length).tolist()
    reference = PrivateGenerator(ReferenceBackend(), description, weights_of_trained_size(description))
    wanted = [answer.token for answer in reference.generate(prompt, len(prompt), a.new_tokens, REVEAL)]
    print(f"{a.architecture}, {shape}, prompt of {prompt_length} tokens, {a.new_tokens} new ones; float64 answers {wanted}")
    print(f"{'phase':28s} {'MB':>10s} {'CPU s':>9s} {'messages':>9s} {'wall s':>8s} {'kept MB':>8s} {'load':>6s}  token")
    rows: list[dict] = []
    work = (description, prompt, a.new_tokens, a.answers, not a.without_today)
    for client, server in stream_both(_phases, work, description.engine):
        both = replace(
            client,
            bytes=client.bytes + server.bytes,
            cpu_seconds=client.cpu_seconds + server.cpu_seconds,
            messages=client.messages + server.messages,
            wall_seconds=max(client.wall_seconds, server.wall_seconds),
            kept_bytes=max(client.kept_bytes, server.kept_bytes),
        )
        load = os.getloadavg()[0]
        rows.append(asdict(both) | {"load": load})
        print(
            f"{both.phase:28s} {both.bytes / 1e6:10.3f} {both.cpu_seconds:9.2f} {both.messages:9.0f} {both.wall_seconds:8.1f} "
            f"{both.kept_bytes / 1e6:8.2f} {load:6.1f}  {both.tokens[0] if both.tokens else ''}",
            flush=True,
        )
    if a.json:
        document = {"architecture": a.architecture, "shape": shape.to_dict(), "wanted": wanted, "rows": rows}
        write_atomic(a.json, json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
