"""`hushlm architectures`."""

from __future__ import annotations

from dataclasses import asdict

from hushlm.architectures import REGISTRY, Architecture, Blocks, FeedForward, Norm, Temperature
from hushlm.config import ModelShape
from hushlm.cost import nonlinear_operations
from hushlm.recommended import RECOMMENDED
from hushlm.report.table import Column, Table, print_json, print_table
from hushlm.shapes import GPT2_SMALL

__all__ = ["architectures", "describe"]


def architectures(shape: ModelShape = GPT2_SMALL, json: bool = False) -> None:
    """List the architectures: name, nonlinear operations, what each one is; and the models recommended.

    A name lists exactly the nonlinearities that a model keeps. Names that are not listed parse too where the notation has a
    meaning for them, for example "SM1(th)+LN+R".

    Args:
        shape: sizes at which nonlinear operations are counted; GPT-2 small by default.
        json: print one JSON document instead of the table.
    """
    rows = [
        {
            "name": str(architecture),
            "nonlinear_operations": [asdict(operation) for operation in nonlinear_operations(architecture, shape)],
            "description": describe(architecture),
        }
        for architecture in REGISTRY
        if architecture.removed_ffns <= shape.layers
    ]
    recommended = [
        {"name": point.name, "architecture": point.architecture, "shape": point.shape.to_dict(), "purpose": point.purpose}
        for point in RECOMMENDED.values()
    ]
    if json:
        print_json({"shape": shape.to_dict(), "architectures": rows, "recommended": recommended})
        return
    columns = (
        Column("name", "architecture"),
        Column("nonlinear_operations", "nonlinear operations", lambda operations: "\n".join(map(_operation, operations))),
        Column("description", "what it is"),
    )
    sizes = f"L={shape.layers} H={shape.heads} D={shape.width} T={shape.context}"
    print_table(Table(f"Architectures, nonlinear operations at {sizes}", columns, rows))
    of_models = (
        Column("name", "model"),
        Column("architecture", "architecture"),
        Column("shape", "L/H/D/F", lambda s: f"{s['layers']}/{s['heads']}/{s['width']}/{s['width'] * s['ffn_multiple']}"),
        Column("purpose", "what for"),
    )
    print_table(Table("Which one should I use? At GPT-2 small's scale; their training is in hushlm.recommended", of_models, recommended))


def describe(architecture: Architecture) -> str:
    """An architecture in words."""
    kernel = "softmax"
    if architecture.kernel_order is not None:
        power = 2**architecture.kernel_order
        kernel = f"power kernel (1 + s/{power})^{power}, no comparison" if architecture.power else f"kernel (1 + z/{power})^{power}"
    parts = [kernel]
    match architecture.temperature:
        case Temperature.PER_HEAD:
            parts.append("a learned temperature per head")
        case Temperature.PER_HEAD_AND_POSITION:
            parts.append("a learned temperature per head and position")
        case Temperature.NONE:
            pass
    if architecture.query_key_norm:
        parts.append("maps to queries and keys normalised")
    match architecture.norm:
        case Norm.LAYER:
            parts.append("LayerNorm before each half of a block")
        case Norm.RMS:
            parts.append("RMSNorm before each half of a block")
        case Norm.WEIGHT:
            parts.append(f"weight normalisation of {architecture.norm_layers}")
        case Norm.SPECTRAL:
            parts.append(f"spectral normalisation of {architecture.norm_layers}")
        case Norm.NONE:
            pass
    if architecture.final_norm:
        parts.append("LayerNorm before the head only")
    parts.append(_FEED_FORWARD[architecture.feed_forward])
    if architecture.removed_ffns:
        parts.append(f"the {architecture.removed_ffns} deepest FFNs left out")
    if architecture.is_parallel:
        parts.append("GPT-NeoX blocks (rotary positions, attention and FFN side by side)")
    if architecture.blocks is Blocks.LLAMA:
        parts.append("LLaMA blocks (rotary positions, no biases)")
    if architecture.entropy_regularised:
        parts.append("trained with the entropy regulariser")
    return ", ".join(parts)


_FEED_FORWARD = {
    FeedForward.GELU: "GELU FFN",
    FeedForward.RELU: "ReLU FFN",
    FeedForward.SQUARED_RELU: "squared-ReLU FFN",
    FeedForward.POLYNOMIAL: "polynomial FFN (trained in)",
    FeedForward.QUADRATIC: "quadratic FFN, no comparison",
    FeedForward.BILINEAR: "bilinear FFN, no comparison",
    FeedForward.SWIGLU: "SwiGLU FFN",
    FeedForward.SWIGLU_QUADRATIC: "SwiGLU FFN with a quadratic for SiLU",
    FeedForward.IDENTITY: "linear FFN",
    FeedForward.SCALED: "scaled linear FFN",
    FeedForward.SCALED_FUSED: "scaled linear FFN fused into one matrix",
}


def _operation(operation: dict[str, int | str]) -> str:
    return "{name}: {count} x R^{rows}x{columns}".format_map(operation)
