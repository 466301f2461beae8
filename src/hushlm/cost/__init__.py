"""What private inference of an architecture costs, before there is a model: counts, bytes, seconds and memory.

Pricing needs neither weights nor the engine, because everything follows from an `Architecture`, a `ModelShape` and the plan of the
computation (`hushlm.plan`).
"""

from hushlm.cost.counts import Flops, NonlinearOperation, flops, nonlinear_operations, parameters
from hushlm.cost.generation import GenerationCost, price_generation
from hushlm.cost.network import LAN, WAN, Network, parse_network
from hushlm.cost.operation_prices import StepCost, price_step
from hushlm.cost.prepared import PreparedCost, price_prepared
from hushlm.cost.pricing import Amount, CostReport, price, price_total

__all__ = [
    "LAN",
    "WAN",
    "Amount",
    "CostReport",
    "Flops",
    "GenerationCost",
    "Network",
    "NonlinearOperation",
    "PreparedCost",
    "StepCost",
    "flops",
    "nonlinear_operations",
    "parameters",
    "parse_network",
    "price",
    "price_generation",
    "price_prepared",
    "price_step",
    "price_total",
]
