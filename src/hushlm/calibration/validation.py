"""The network model compared with real runs: whole private passes over an emulated network, predicted and measured."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from hushlm.architectures import parse
from hushlm.calibration.both_parties import Link, run_both
from hushlm.calibration.relay import MeasuredLink, probe
from hushlm.config import ModelShape
from hushlm.cost.network import Network
from hushlm.cost.pricing import Amount, price_total
from hushlm.plan import decode_plan, prefill_plan, stored_shapes
from hushlm.private.engine import Engine, Party
from hushlm.private.program.description import ProgramDescription, describe
from hushlm.private.program.generate import PrivateGenerator

__all__ = ["MeasuredPass", "TimedPass", "measure", "predict", "random_weights", "timed_passes"]


@dataclass(frozen=True)
class TimedPass:
    """One pass at one party: its wall time, and what its engine counted."""

    seconds: float
    sent_bytes: int
    received_bytes: int
    sent_messages: int
    received_messages: int


@dataclass(frozen=True)
class MeasuredPass:
    """The private pass of one architecture over one network, measured and predicted.

    Attributes:
        architecture: the architecture's name.
        network: the network that the relay is to emulate.
        link: what the relay achieves, measured with plain sockets.
        measured_seconds: the median time of the client's passes, without the first, which compiles.
        local_seconds: the median time of the same pass without a relay, just before: the computing alone, on this machine in its present
            load.
        counted_bytes: the mean of the bytes of the passes.
        predicted: the prediction of the model alone, over the measured link.
    """

    architecture: str
    network: str
    link: MeasuredLink
    measured_seconds: float
    local_seconds: float
    counted_bytes: float
    predicted: Amount

    @property
    def predicted_on_local_seconds(self) -> float:
        """The prediction with the measured `local_seconds` in place of the model's computing."""
        return self.predicted.seconds - self.predicted.compute_seconds + self.local_seconds

    @property
    def error(self) -> float:
        """The relative error of the model alone."""
        return self.predicted.seconds / self.measured_seconds - 1

    @property
    def error_on_local(self) -> float:
        """The relative error of the network's part of the model."""
        return self.predicted_on_local_seconds / self.measured_seconds - 1


def predict(architecture: str, shape: ModelShape, link: MeasuredLink) -> Amount:
    """The model's price of a pass over a full context, over the link that a relay achieves."""
    achieved = Network("measured", link.round_trip_seconds, link.bits_per_second)
    return price_total(prefill_plan(parse(architecture), shape, shape.context), network=achieved)


def random_weights(description: ProgramDescription) -> dict[str, np.ndarray]:
    """Random tensors (float32) for the server of a program, from a normal distribution with standard deviation 1/sqrt(width)."""
    shape, random = description.shape, np.random.default_rng(0)
    plans = [make(description.parsed_architecture, shape, shape.context) for make in (prefill_plan, decode_plan)]
    shapes = stored_shapes(plans[0]) | stored_shapes(plans[1])
    return {name: random.normal(0, 1 / math.sqrt(shape.width), size).astype(np.float32) for name, size in shapes.items()}


def timed_passes(engine: Engine, description: ProgramDescription, passes: int) -> list[TimedPass]:
    """Run passes over a full context with random weights, on whose values bytes and time do not depend."""
    shape = description.shape
    generator = PrivateGenerator(engine, description, random_weights(description) if engine.party is Party.SERVER else None)
    generator.set_up()
    length = shape.context - 1
    prompt = [i % shape.vocabulary for i in range(length)] if engine.party is Party.CLIENT else None
    timed = []
    for _ in range(passes):
        start = time.perf_counter()
        (answer,) = generator.generate(prompt, length, 1)
        t = answer.traffic
        timed.append(TimedPass(time.perf_counter() - start, t.sent_bytes, t.received_bytes, t.sent_messages, t.received_messages))
    return timed


def measure(architecture: str, shape: ModelShape, network: Network, passes: int = 3) -> MeasuredPass:
    """Run an architecture's private pass over a network and predict it.

    Args:
        architecture: the architecture's name.
        shape: the model's sizes. The context must be a multiple of the program's length bucket, so that a full prompt is not padded.
        network: the network to emulate.
        passes: how many passes to run; the first is left out of the result.

    Raises:
        RuntimeError: if a party dies.
    """
    description = describe(parse(architecture), shape)
    local, _ = run_both(timed_passes, (description, passes), description.engine)
    local_seconds = float(np.median([timed.seconds for timed in local[1:]]))
    link = probe(network.round_trip_seconds, network.bits_per_second)
    client, _ = run_both(timed_passes, (description, passes), description.engine, Link(network.round_trip_seconds, network.bits_per_second))
    later: list[TimedPass] = client[1:]
    return MeasuredPass(
        architecture=architecture,
        network=str(network),
        link=link,
        measured_seconds=float(np.median([timed.seconds for timed in later])),
        local_seconds=local_seconds,
        counted_bytes=float(np.mean([timed.sent_bytes + timed.received_bytes for timed in later])),
        predicted=predict(architecture, shape, link),
    )
