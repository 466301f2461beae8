"""Prepared answers beside today's pass, whole, in one run: bytes, CPU seconds of both parties, messages and wall seconds.

    python benchmarks/prepared.py [--architecture SM2+R] [--layers 2 --heads 4 --width 64 --vocabulary 256] [--tokens 32] [--new_tokens 2]
        [--networks loopback,lan,wan] [--cold] [--without_today] [--write]
    python benchmarks/prepared.py --model Hush-M --write        # a recommended model at its size for GPT-2 small's scale
    python benchmarks/prepared.py --model SM2+R --write         # an architecture at GPT-2 small's shape

Two processes, random weights scaled like trained ones; over each network the forms that suit it (`ask --network`). Material for one answer
more than there are networks is made in one go, and its figures are divided by the number of answers. The first answer compiles its
programs; after it each network, emulated by a relay on this machine, gets an answer. With --cold there is no such first answer, and each
network's compiles what it is the first to need. "today" is the pass as it is served now, after its own set-up. Wall seconds are those of a
machine that may be busy; its load is recorded with them. Tokens are compared with the reference in float64. --write keeps the rows in
results/prepared.json, in place of earlier ones of the same model, and draws the table of docs/cost.md again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hushlm.architectures import parse
from hushlm.calibration.both_parties import stream_both
from hushlm.calibration.machine import processor_name
from hushlm.calibration.relay import Link, SwitchableLink
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN
from hushlm.files import write_atomic
from hushlm.plan import Tensor, decode_plan, prefill_plan, server_tensors, whole_buckets
from hushlm.plan.needs import NEEDS_FORMAT
from hushlm.private.engine import Engine, Traffic
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.program.backend import ReferenceBackend
from hushlm.private.program.description import ProgramDescription, RevealPolicy, describe
from hushlm.private.program.generate import PrivateGenerator
from hushlm.recommended import RECOMMENDED
from hushlm.report.prepared_report import FORMS
from hushlm.shapes import GPT2_SMALL
from sections import write_section

REVEAL = RevealPolicy()
LOOPBACK = Link(round_trip_seconds=0.0, bits_per_second=1e12)
NETWORKS = {"loopback": LOOPBACK} | {each.name: Link(each.round_trip_seconds, each.bits_per_second) for each in (LAN, WAN)}
RESULTS = Path("results/prepared.json")
DOCUMENT = Path("docs/cost.md")


@dataclass(frozen=True)
class Row:
    """What one phase cost; of both parties together, but wall seconds."""

    phase: str
    bytes: float
    cpu_seconds: float
    messages: float
    wall_seconds: float
    network: str = "loopback"
    kept_bytes: int = 0
    peak_bytes: int = 0
    token: int | None = None


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


class Stopwatch:
    """Measures this party's phases, one after another."""

    def __init__(self) -> None:
        self._cpu_seconds, self._wall_seconds = _cpu_seconds(), time.perf_counter()

    def row(self, phase: str, sent: Traffic, count: int = 1, **more: Any) -> Row:
        """What happened since the last row, divided by a number of answers; messages and bytes are those that this party sent."""
        cpu_seconds, wall_seconds = _cpu_seconds() - self._cpu_seconds, time.perf_counter() - self._wall_seconds
        self._cpu_seconds, self._wall_seconds = _cpu_seconds(), time.perf_counter()
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        moved, messages = sent.sent_bytes / count, sent.sent_messages / count
        return Row(phase, moved, cpu_seconds / count, messages, wall_seconds / count, peak_bytes=peak_bytes, **more)


def _phases(
    engine: Engine,
    description: ProgramDescription,
    prompt: list[int],
    new_tokens: int,
    networks: list[str],
    today: bool,
    cold: bool,
    link: SwitchableLink,
) -> Iterator[Row]:
    """Rows of this party: set-up, material, an answer that compiles, an answer a network, and today's pass."""
    desk = Desk(engine)
    mine = prompt if desk.is_client else None
    weights = None if desk.is_client else weights_of_trained_size(description)
    generator, watch = PreparedGenerator(desk, description, weights), Stopwatch()
    yield watch.row("set-up", generator.set_up())
    answers = (
        [("online", network) for network in networks] if cold else [("compiling", networks[0]), *(("online", each) for each in networks)]
    )
    materials, sent = generator.prepare(len(prompt), new_tokens, len(answers))
    yield watch.row("offline", sent, len(materials), kept_bytes=materials[0].size_bytes)
    for (phase, network), material in zip(answers, materials, strict=True):
        link.switch(NETWORKS[network])
        desk.network = FORMS[network]
        watch = Stopwatch()
        for index, answer in enumerate(generator.generate(material, mine, len(prompt), new_tokens, REVEAL)):
            yield watch.row(f"{phase}, token {index + 1}", answer.traffic, network=network, token=answer.token)
    link.switch(LOOPBACK)
    if today:
        plain, watch = PrivateGenerator(engine, description, weights), Stopwatch()
        yield watch.row("today, set-up", plain.set_up())
        for phase in ("today, compiling", "today"):
            for index, answer in enumerate(plain.generate(mine, len(prompt), new_tokens, REVEAL)):
                yield watch.row(f"{phase}, token {index + 1}", answer.traffic, token=answer.token)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a recommended model, or an architecture, at GPT-2 small's scale and vocabulary, 128 tokens")
    parser.add_argument("--architecture", default="SM2+R")
    sizes = {"layers": 2, "heads": 4, "width": 64, "vocabulary": 256, "tokens": 32, "new_tokens": 2}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--networks", default="loopback", help="any of loopback, lan, wan, separated by commas")
    parser.add_argument("--without_today", action="store_true", help="leave out the pass as it is served now")
    parser.add_argument("--cold", action="store_true", help="no answer that only compiles: what programs the first ones compile is theirs")
    parser.add_argument("--write", action="store_true", help=f"keep the rows in {RESULTS} and draw the table of {DOCUMENT} again")
    return parser.parse_args()


def main() -> None:
    a = asked()
    name, architecture, shape, tokens = a.model or a.architecture, parse(a.architecture), None, a.tokens
    if a.model:
        point = RECOMMENDED.get(a.model)
        architecture, shape = (parse(point.architecture), point.shape) if point else (parse(a.model), GPT2_SMALL)
        tokens = 128
    else:
        shape = ModelShape(layers=a.layers, heads=a.heads, width=a.width, context=tokens, vocabulary=a.vocabulary)
    # The last of the new tokens is the answer's, so that the longest pass has just as many tokens as were asked for.
    prompt_length = tokens - a.new_tokens + 1
    description = describe(architecture, replace(shape, context=whole_buckets(tokens + 1)))
    networks = a.networks.split(",")
    prompt = np.random.default_rng(1).integers(0, shape.vocabulary, prompt_length).tolist()
    reference = PrivateGenerator(ReferenceBackend(), description, weights_of_trained_size(description))
    wanted = [answer.token for answer in reference.generate(prompt, len(prompt), a.new_tokens, REVEAL)]
    print(f"{name}, {description.shape}, prompt of {prompt_length} tokens, {a.new_tokens} new ones; float64 answers {wanted}")
    print(f"{'phase':24s} {'network':9s} {'MB':>10s} {'CPU s':>9s} {'messages':>9s} {'wall s':>8s} {'peak GB':>8s} {'load':>6s}  token")
    rows: list[dict[str, Any]] = []
    link = SwitchableLink(LOOPBACK)
    work = (description, prompt, a.new_tokens, networks, not a.without_today, a.cold, link)
    for client, server in stream_both(_phases, work, description.engine, link):
        both = asdict(client) | {each: getattr(client, each) + getattr(server, each) for each in ("bytes", "cpu_seconds", "messages")}
        both |= {each: max(getattr(client, each), getattr(server, each)) for each in ("wall_seconds", "kept_bytes", "peak_bytes")}
        both |= {"load": os.getloadavg()[0]}
        rows.append(both)
        print(
            f"{both['phase']:24s} {both['network']:9s} {both['bytes'] / 1e6:10.3f} {both['cpu_seconds']:9.2f} {both['messages']:9.0f} "
            f"{both['wall_seconds']:8.1f} {both['peak_bytes'] / 1e9:8.2f} {both['load']:6.1f}  {both['token'] or ''}",
            flush=True,
        )
    for row in rows:
        if row["token"] is not None and row["token"] != wanted[int(row["phase"].split()[-1]) - 1]:
            raise SystemExit(
                f"{row['phase']} through {row['network']} is {row['token']}, but the reference says {wanted}: nothing written."
            )
    if a.write:
        settings = {
            "architecture": str(architecture),
            "shape": description.shape.to_dict(),
            "answers": len(networks) + (not a.cold),
            "cold": a.cold,
            "format": NEEDS_FORMAT,
            "machine": f"{processor_name()}, {os.cpu_count()} cores",
            "command": f"python benchmarks/prepared.py {shlex.join(sys.argv[1:])}",
        }
        keep(name, tokens, settings, rows)


def keep(model: str, tokens: int, settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Put one model's rows into the results, in place of earlier ones, and draw the table again."""
    kept = []
    for row in rows:
        network, seconds = row.pop("network"), row.pop("wall_seconds")
        kept.append({"model": model, "tokens": tokens, "network": network} | row | {f"wall_seconds_{network}": seconds} | settings)
    document = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": []}
    others = [row for row in document["rows"] if (row["model"], row["tokens"]) != (model, tokens)]
    rows = [*others, *kept]
    write_atomic(RESULTS, json.dumps({"rows": rows}, indent=1) + "\n")
    write_section(DOCUMENT, "prepared", table(rows))


def table(rows: list[dict[str, Any]]) -> str:
    """What answers cost, whole runs only: offline and online beside each other, as a Markdown table."""
    lines = [
        "| Model | Phase | MB | CPU seconds | Messages | Network | Wall seconds | Peak GB of a party | Machine | Format |",
        "|---|---|--:|--:|--:|---|--:|--:|---|--:|",
    ]
    for row in rows:
        if "compiling" in row["phase"] or "set-up" in row["phase"]:
            continue
        lines.append(
            f"| {row['model']} | {row['phase']} | {row['bytes'] / 1e6:,.1f} | {row['cpu_seconds']:,.1f} | {row['messages']:,.0f} "
            f"| {row['network']} | {row['wall_seconds_' + row['network']]:,.1f} | {row['peak_bytes'] / 1e9:.1f} "
            f"| {row['machine']} | {row['format']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
