"""Attention with exact row entropies, the entropy regulariser, and what head entropies say about a model."""

from hushlm.entropy.attention import entropy_attention
from hushlm.entropy.diagnostics import HeadReport, attainable_maximum_nats, silent_layers, summarise
from hushlm.entropy.regulariser import EntropyRegulariser

EntropyRegularizer = EntropyRegulariser
"""The same, as Americans spell it."""

__all__ = [
    "EntropyRegulariser",
    "EntropyRegularizer",
    "HeadReport",
    "attainable_maximum_nats",
    "entropy_attention",
    "silent_layers",
    "summarise",
]
