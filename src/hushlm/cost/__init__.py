"""What private inference of an architecture costs, before there is a model: counts, bytes, seconds, memory.

Needs neither weights nor the engine: everything follows from an `Architecture`, a `ModelShape` and the plan of the computation.
"""

from hushlm.cost.counts import Flops, NonlinearOperation, flops, nonlinear_operations, parameters
from hushlm.cost.network import LAN, WAN, Network, parse_network
from hushlm.cost.pricing import Amount, CostReport, GenerationCost, price, price_generation, price_total
from hushlm.cost.protocol import StepCost, price_step

__all__ = [
    "LAN",
    "WAN",
    "Amount",
    "CostReport",
    "Flops",
    "GenerationCost",
    "Network",
    "NonlinearOperation",
    "StepCost",
    "flops",
    "nonlinear_operations",
    "parameters",
    "parse_network",
    "price",
    "price_generation",
    "price_step",
    "price_total",
]
