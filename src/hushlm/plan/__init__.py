"""What is computed privately: the operations of a pass, how they are written, and how the engine cuts their products.

A plan has shapes but no weights and no numerics. `hushlm.cost` prices its steps, and `hushlm.private` runs them, each as a compiled
program of its own, so that what is predicted and what is counted are the same list. Everything in a plan is public: both parties derive
it from the architecture, the shape and the number of tokens.
"""

from hushlm.plan.attention_operations import (
    Divide,
    Kernel,
    Mix,
    PowerKernel,
    Prepend,
    Rotate,
    Scores,
    halvings,
    row_lengths,
)
from hushlm.plan.operations import (
    Activate,
    ActivatedGate,
    Embed,
    Gate,
    Normalise,
    Operation,
    Project,
    Reveal,
    RmsNormalise,
    ScaleRows,
    Step,
    needed_squarings,
    parse_reveal,
)
from hushlm.plan.passes import LENGTH_BUCKET, Plan, bucket_length, decode_plan, exponential_squarings, prefill_plan, whole_buckets
from hushlm.plan.protocol_settings import ProtocolSettings
from hushlm.plan.rewrites import HUSH, PUBLISHED, Rewrites
from hushlm.plan.root_limits import ROOT_LIMITS, ROOT_LOW_LIMITS
from hushlm.plan.step_names import STREAMS, ModelPart, StepName, Tensor, Value, tensor_name
from hushlm.plan.wiring import ServerTensor, Surroundings, Wiring, input_shapes, server_tensors, stored_shapes, wiring

__all__ = [
    "HUSH",
    "LENGTH_BUCKET",
    "PUBLISHED",
    "ROOT_LIMITS",
    "ROOT_LOW_LIMITS",
    "STREAMS",
    "Activate",
    "ActivatedGate",
    "Divide",
    "Embed",
    "Gate",
    "Kernel",
    "Mix",
    "ModelPart",
    "Normalise",
    "Operation",
    "Plan",
    "PowerKernel",
    "Prepend",
    "Project",
    "ProtocolSettings",
    "Reveal",
    "Rewrites",
    "RmsNormalise",
    "Rotate",
    "ScaleRows",
    "Scores",
    "ServerTensor",
    "Step",
    "StepName",
    "Surroundings",
    "Tensor",
    "Value",
    "Wiring",
    "bucket_length",
    "decode_plan",
    "exponential_squarings",
    "halvings",
    "input_shapes",
    "needed_squarings",
    "parse_reveal",
    "prefill_plan",
    "row_lengths",
    "server_tensors",
    "stored_shapes",
    "tensor_name",
    "whole_buckets",
    "wiring",
]
