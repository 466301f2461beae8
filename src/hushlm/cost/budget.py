"""What a budget buys: every combination of architectures and shapes is priced, and the best ones are found."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
"""More combinations than this are refused, because nobody will wait for their prices."""

Point = TypeVar("Point")


@dataclass(frozen=True)
class SearchSpace:
    """Every combination of some architectures with some shapes. Shapes whose heads do not divide their width are left out.

    Attributes:
        architectures: the architectures to combine with each shape; `every_architecture` returns all that exist.
        layers, widths, heads: the sizes to combine with each other.
        context, vocabulary, ffn_multiple: the sizes that all shapes share.
    """

    architectures: tuple[Architecture, ...]
    layers: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    context: int = 128
    vocabulary: int = GPT2_VOCABULARY
    ffn_multiple: int = 4

    def shapes(self) -> list[ModelShape]:
        """Every shape of the space.

        Raises:
            ValueError: in one sentence, for a size that no model can have.
        """
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
        architecture, shape: what the model is and how large it is.
        parameters: how many numbers are trained.
        flops: all floating-point operations of the pass, by the full convention of `hushlm.cost.counts`.
        amount: the bytes, messages, round trips and seconds of the private pass.
    """

    architecture: Architecture
    shape: ModelShape
    parameters: int
    flops: int
    amount: Amount

    @property
    def kind(self) -> Architecture:
        """The architecture without its choice of an attention kernel."""
        return replace(self.architecture, kernel_order=None, power=False)

    def to_dict(self) -> dict[str, Any]:
        """The candidate as plain JSON values."""
        return {
            "architecture": str(self.architecture),
            **self.shape.to_dict(),
            "parameters": self.parameters,
            "flops": self.flops,
            **self.amount.to_dict(),
        }


def every_architecture() -> tuple[Architecture, ...]:
    """Every attention kernel with every normalisation and feed-forward network (FFN), as far as they have a meaning together.

    WNorm and SNorm act on weights, so that only training sees them. Of architectures that differ in nothing else, and therefore share
    private program, parameters and FLOPs, only the plainest is returned. RMSNorm is left out: its price is LayerNorm's to a part in a
    hundred, and no model measured here was trained with it.
    """
    probe = ModelShape(layers=2, heads=2, width=8, context=4, vocabulary=16)
    norms = [norm for norm in Norm if norm is not Norm.RMS]
    found: dict[Hashable, Architecture] = {}
    for order, norm, norm_layers, feed_forward in product((None, *KERNEL_ORDERS), norms, ("", *STATIC_NORM_LAYERS), FeedForward):
        try:
            named = Architecture(kernel_order=order, norm=norm, norm_layers=norm_layers, feed_forward=feed_forward)
        except ValueError:
            # This combination has no meaning.
            continue
        program = prefill_plan(named, probe, probe.context).steps
        found.setdefault((program, parameters(named, probe), flops(named, probe)), named)
    return tuple(found.values())


def search(space: SearchSpace, network: Network = WAN, settings: ProtocolSettings | None = None) -> list[Candidate]:
    """Price every combination, which takes a millisecond or two for each.

    Raises:
        ValueError: if there is no combination at all, or if there are more than `MOST_COMBINATIONS`.
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
    """The price of one more token of a candidate's model at the end of the context, with keys and values kept from before."""
    shape = candidate.shape
    return price_total(decode_plan(candidate.architecture, shape, shape.context), settings, network)


def best_of_each_kind(
    candidates: Iterable[Candidate], better: Callable[[Candidate], tuple[float, ...]], allowed: Callable[[Candidate], bool]
) -> list[Candidate]:
    """The best candidate of each kind, the best of all first; a kind is an architecture without its choice of attention kernel.

    Args:
        candidates: the candidates to choose from.
        better: what candidates are compared by; the larger value is better.
        allowed: whether a candidate may be chosen.
    """
    best: dict[Architecture, Candidate] = {}
    for candidate in candidates:
        if allowed(candidate) and (candidate.kind not in best or better(candidate) > better(best[candidate.kind])):
            best[candidate.kind] = candidate
    return sorted(best.values(), key=better, reverse=True)


def pareto_front(points: Iterable[Point], cost: Callable[[Point], float], value: Callable[[Point], float]) -> list[Point]:
    """The Pareto front of some points, cheapest first: the points to which no other is preferable.

    A point is left out if another one costs no more and is worth no less. Of points that are equal in both, the first stays.
    """
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (cost(point), -value(point))):
        if not front or value(point) > value(front[-1]):
            front.append(point)
    return front


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
