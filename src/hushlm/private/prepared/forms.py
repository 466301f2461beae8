"""Which form of an operation suits the network between the parties: a function of public sizes, the same at both."""

from __future__ import annotations

from hushlm.cost.network import Network
from hushlm.cost.tournament import Tournament, choose_tournament
from hushlm.plan import Kernel, Reveal, row_lengths

__all__ = ["kernel_tournament", "reveal_tournament"]


def kernel_tournament(operation: Kernel, network: Network) -> Tournament:
    """How a kernel finds its row maxima."""
    return choose_tournament(tuple(row_lengths(operation)), operation.heads, network, clip=True)


def reveal_tournament(operation: Reveal, network: Network) -> Tournament:
    """How the largest logit is found, its id going along."""
    return choose_tournament((operation.vocabulary,), operation.rows, network, clip=False, carried=2)
