"""What can be had for a budget: architectures x shapes, each priced, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any, TypeVar

from hushlm.architectures import KERNEL_ORDERS, STATIC_NORM_LAYERS, Architecture, FeedForward, Norm
from hushlm.config import ModelShape
from hushlm.cost.counts import check_size, flops, parameters
from hushlm.cost.network import WAN, Network
from hushlm.cost.pricing import Amount, price_total
from hushlm.plan import ProtocolSettings, decode_plan, prefill_plan
from hushlm.shapes import GPT2_VOCABULARY

__all__ = ["Candidate", "SearchSpace", "best_of_each_kind", "every_architecture", "further_token", "pareto_front", "search"]

MOST_COMBINATIONS = 100_000

Point = TypeVar("Point")


@dataclass(frozen=True)
class SearchSpace:
    """Architectures x shapes; shapes whose heads do not divide their width are left out.

    Attributes:
        architectures: see `every_architecture`.
        layers, widths, heads: to combine.
        context, vocabulary, ffn_multiple: of every shape.
    """

    architectures: tuple[Architecture, ...]
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    context: int = 128
    vocabulary: int = GPT2_VOCABULARY
    ffn_multiple: int = 4

    def shapes(self) -> list[ModelShape]:
        """Raises: ValueError for a size that cannot be, in one sentence."""
        return [
            ModelShape(
                layers=layers, heads=heads, width=width, context=self.context, vocabulary=self.vocabulary, ffn_multiple=self.ffn_multiple
            )
            for width, heads, layers in product(self.widths, self.heads, self.layers)
            if not (width > 0 and heads > 0 and width % heads)
        ]


@dataclass(frozen=True)
class Candidate:
    """One model that could be trained, and one private token of it after a full context.

    Attributes:
        architecture, shape: of the model.
        parameters: as trained.
        flops: of the pass, all of them.
        amount: bytes, messages, round trips and seconds of the private pass.
    """

    architecture: Architecture
    shape: ModelShape
    parameters: int
    flops: int
    amount: Amount

    @property
    def kind(self) -> Architecture:
        """Everything of the architecture but its attention kernel."""
        return replace(self.architecture, kernel_order=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "architecture": str(self.architecture),
            **asdict(self.shape),
            "parameters": self.parameters,
            "flops": self.flops,
            **self.amount.to_dict(),
        }


def every_architecture() -> tuple[Architecture, ...]:
    """Every kernel with every normalisation and FFN that the vocabulary knows and that have a meaning together.

    Of those that differ only in what training sees (WNorm and SNorm act on weights), the plainest: their private programs, parameters
    and FLOPs are the same.
    """
    probe = ModelShape(layers=2, heads=2, width=8, context=4, vocabulary=16)
    found: dict[Hashable, Architecture] = {}
    for order, norm, norm_layers, feed_forward in product((None, *KERNEL_ORDERS), Norm, ("", *STATIC_NORM_LAYERS), FeedForward):
        try:
            named = Architecture(kernel_order=order, norm=norm, norm_layers=norm_layers, feed_forward=feed_forward)
        except ValueError:
            # A combination without a meaning.
            continue
        program = prefill_plan(named, probe, probe.context).steps
        found.setdefault((program, parameters(named, probe), flops(named, probe)), named)
    return tuple(found.values())


def search(space: SearchSpace, network: Network = WAN, settings: ProtocolSettings | None = None) -> list[Candidate]:
    """Price every combination: a millisecond or two each.

    Raises:
        ValueError: if there is none, or more than anybody will wait for.
    """
    shapes = space.shapes()
    if not shapes:
        raise ValueError(f"None of the heads {_listed(space.heads)} divide any of the widths {_listed(space.widths)}: choose others.")
    count = len(shapes) * len(space.architectures)
    if count > MOST_COMBINATIONS:
        raise ValueError(
            f"{len(space.architectures)} architectures in {len(shapes)} shapes are {count:,} combinations: "
            f"give fewer layers, widths or heads, for at most {MOST_COMBINATIONS:,}."
        )
    for shape in shapes:
        check_size(shape)
    return list(_price_all(space.architectures, shapes, network, settings))


def _price_all(
    architectures: Iterable[Architecture], shapes: Sequence[ModelShape], network: Network, settings: ProtocolSettings | None
) -> Iterator[Candidate]:
    for shape, architecture in product(shapes, architectures):
        if architecture.removed_ffns <= shape.layers:
            yield Candidate(
                architecture,
                shape,
                parameters(architecture, shape),
                flops(architecture, shape, convention="full").total,
                price_total(prefill_plan(architecture, shape, shape.context), settings, network),
            )


def further_token(candidate: Candidate, network: Network = WAN, settings: ProtocolSettings | None = None) -> Amount:
    """Of a candidate's model: one more token at the end of the context, keys and values kept."""
    shape = candidate.shape
    return price_total(decode_plan(candidate.architecture, shape, shape.context), settings, network)


def best_of_each_kind(
    candidates: Iterable[Candidate], better: Callable[[Candidate], tuple[float, ...]], allowed: Callable[[Candidate], bool]
) -> list[Candidate]:
    """For each kind of model (everything but the kernel) its best, the best of all first.

    Args:
        better: larger is better.
        allowed: others are left out.
    """
    best: dict[Architecture, Candidate] = {}
    for candidate in candidates:
        if allowed(candidate) and (candidate.kind not in best or better(candidate) > better(best[candidate.kind])):
            best[candidate.kind] = candidate
    return sorted(best.values(), key=better, reverse=True)


def pareto_front(points: Iterable[Point], cost: Callable[[Point], float], value: Callable[[Point], float]) -> list[Point]:
    """The points for which no other is at most as dear and at least as good, cheapest first; of equals the first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (cost(point), -value(point))):
        if not front or value(point) > value(front[-1]):
            front.append(point)
    return front


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
