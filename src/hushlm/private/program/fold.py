"""Exact rewrites of a checkpoint's weights into the tensors of its private program.

Folded into neighbouring linear maps: 1/sqrt(E), a per-head temperature, LayerNorm's gain and bias, alpha and beta. Linear
FFNs without LayerNorm disappear: with x_out = x_sa M + c, the residual stream is written in a moving basis,

    x_l = r_l B_l + o_l,    B_{l+1} = B_l M_l,    o_{l+1} = (o_l + b_o) M_l + c_l,

so r passes the FFN unchanged, and B is absorbed where the stream is read (B W, with bias o W + b) and where it is written
(W_o B^-1). B is free up to a constant matrix on the left: it is the identity at a reference layer in the middle of each run
of absorbed layers. All in float64; the result is the same function.

In GPT-NeoX blocks the FFN reads x, not x_sa, and x_out = x M + beta (attention + b_o) + c (beta is 1 without scaling): r passes
unchanged all the same, attention writes by beta W_o B_{l+1}^-1, and o_{l+1} = o_l M + beta b_o + c. Before a final LayerNorm the
stream must be x itself: the last basis is the identity, and o, whose start is free, ends at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hushlm.architectures import Architecture, FeedForward, Temperature
from hushlm.config import ModelShape
from hushlm.plan import Rewrites, StepName, Tensor, tensor_name

__all__ = ["Basis", "ffn_map", "fold_weights", "moving_bases"]

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Basis:
    """x = r B + o.

    Attributes:
        matrix_DD: B.
        inverse_DD: B^-1.
        offset_D: o.
    """

    matrix_DD: np.ndarray
    inverse_DD: np.ndarray
    offset_D: np.ndarray


def _linear(state: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(inner, outer) weight and bias of a torch Linear."""
    return state[f"{name}.weight"].T, state[f"{name}.bias"]


def ffn_map(state: Weights, architecture: Architecture, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """M and c of a linear FFN, n M + c being its output before the residual connection is added where there is LayerNorm.

    Without LayerNorm the residual connection is part of the map: M = beta I + W_in W_out / alpha for scaled FFNs,
    M = I + W_in W_out for the identity activation.
    """
    name = f"blocks.{layer}.feed_forward"
    if architecture.feed_forward is FeedForward.SCALED_FUSED:
        matrix, bias = _linear(state, f"{name}.fused")
    else:
        (expand, expand_bias), (contract, contract_bias) = _linear(state, f"{name}.expand"), _linear(state, f"{name}.contract")
        matrix, bias = expand @ contract, expand_bias @ contract + contract_bias
    if architecture.feed_forward.is_scaled:
        alpha, beta = float(state[f"{name}.alpha"]), float(state[f"{name}.beta"])
        return beta * np.eye(len(matrix)) + matrix / alpha, bias / alpha
    return (matrix if architecture.has_layer_norm else matrix + np.eye(len(matrix))), bias


def explicit_layers(architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> list[bool]:
    """For each layer, whether a linear FFN is computed as a product of its own, which starts a new basis."""
    linear = architecture.feed_forward.is_linear
    return [
        linear and architecture.has_ffn(layer, shape.layers) and (architecture.has_layer_norm or layer in rewrites.explicit_ffns)
        for layer in range(shape.layers)
    ]


def moving_bases(state: Weights, architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> list[Basis]:
    """B and o before each layer, and after the last: L + 1 of them.

    An explicit FFN starts a new run of layers; the reference layer of a run, where B is the identity, is its middle; of the last
    run, where a final LayerNorm follows, its end.
    """
    explicit = explicit_layers(architecture, shape, rewrites)
    moves = architecture.feed_forward.is_linear and not architecture.has_layer_norm
    identity = np.eye(shape.width)
    products = [identity]
    for layer in range(shape.layers):
        moved = moves and architecture.has_ffn(layer, shape.layers)
        step = ffn_map(state, architecture, layer)[0] if moved else identity
        products.append(identity if explicit[layer] else products[-1] @ step)
    matrices: list[np.ndarray] = []
    start = 0
    for stop in [*(layer + 1 for layer in range(shape.layers) if explicit[layer]), shape.layers + 1]:
        run = products[start:stop]
        reference = run[-1] if stop > shape.layers and architecture.final_norm else run[len(run) // 2]
        matrices += [np.linalg.solve(reference, product) for product in run]
        start = stop
    offset, bases = _first_offset(state, architecture, shape), []
    for layer, matrix in enumerate(matrices):
        bases.append(Basis(matrix, np.linalg.inv(matrix), offset))
        if layer < shape.layers and not architecture.has_layer_norm:
            offset = _next_offset(state, architecture, shape, layer, offset)
    return bases


def _first_offset(state: Weights, architecture: Architecture, shape: ModelShape) -> np.ndarray:
    """0, or with a final LayerNorm and none in the blocks what ends at 0."""
    last, product = np.zeros(shape.width), np.eye(shape.width)
    if not architecture.final_norm:
        return last
    for layer in range(shape.layers):
        last = _next_offset(state, architecture, shape, layer, last)
        if architecture.feed_forward.is_linear and architecture.has_ffn(layer, shape.layers):
            product = product @ ffn_map(state, architecture, layer)[0]
    return -np.linalg.solve(product.T, last)


def _attention_gain(state: Weights, architecture: Architecture, shape: ModelShape, layer: int) -> float:
    """beta of a NeoX block with a scaled FFN, which acts on what attention adds too; otherwise 1."""
    scaled = architecture.is_parallel and architecture.feed_forward.is_scaled and architecture.has_ffn(layer, shape.layers)
    return float(state[f"blocks.{layer}.feed_forward.beta"]) if scaled else 1.0


def _next_offset(state: Weights, architecture: Architecture, shape: ModelShape, layer: int, offset: np.ndarray) -> np.ndarray:
    """What the biases of a block add to the stream, carried along instead of being added at every layer."""
    added = state[f"blocks.{layer}.attention.output.bias"]
    if not architecture.has_ffn(layer, shape.layers):
        return offset + added
    if architecture.feed_forward.is_linear:
        matrix, bias = ffn_map(state, architecture, layer)
        if architecture.is_parallel:
            return offset @ matrix + _attention_gain(state, architecture, shape, layer) * added + bias
        return (offset + added) @ matrix + bias
    return offset + added + state[f"blocks.{layer}.feed_forward.contract.bias"]


def fold_weights(state: Weights, architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> dict[str, np.ndarray]:
    """Every tensor of the private program, float64, named by `tensor_name`.

    Args:
        state: `LanguageModel.plain_state()` as numpy arrays.
        rewrites: must fold affine gains and linear FFNs (the published forms are priced, not exported).
    """
    assert rewrites.fold_affine
    assert rewrites.absorb_ffns
    bases = moving_bases(state, architecture, shape, rewrites)
    first, last = bases[0], bases[-1]
    explicit = explicit_layers(architecture, shape, rewrites)
    positions = np.zeros((shape.context, shape.width)) if architecture.is_parallel else state["positions.weight"]
    folded = {
        tensor_name(StepName.EMBEDDING, None, Tensor.TABLE): state["embedding.weight"] @ first.inverse_DD,
        tensor_name(StepName.EMBEDDING, None, Tensor.POSITIONS): (positions - first.offset_D) @ first.inverse_DD,
    }
    for layer in range(shape.layers):
        folded |= _attention(state, architecture, shape, layer, bases[layer], bases[layer + 1])
        if architecture.has_ffn(layer, shape.layers) and (explicit[layer] or not architecture.feed_forward.is_linear):
            folded |= _explicit_ffn(state, architecture, layer, bases[layer], bases[layer + 1])
    head = state.get("head.weight", state["embedding.weight"]).T
    weight, bias = _read(state, "final_norm", last, head, np.zeros(head.shape[1]))
    return folded | _product(StepName.HEAD, None, weight, bias)


def _product(step: StepName, layer: int | None, weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    """The two tensors of a step that multiplies with a matrix of the server's."""
    return {tensor_name(step, layer, Tensor.WEIGHT): weight, tensor_name(step, layer, Tensor.BIAS): bias}


def _read(state: Weights, norm: str, basis: Basis, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A linear map that reads the stream: behind a LayerNorm its gain and bias are folded in, otherwise the basis is."""
    if f"{norm}.weight" in state:
        gain, shift = state[f"{norm}.weight"], state[f"{norm}.bias"]
        return gain[:, None] * weight, bias + shift @ weight
    return basis.matrix_DD @ weight, bias + basis.offset_D @ weight


def _attention(
    state: Weights, architecture: Architecture, shape: ModelShape, layer: int, basis: Basis, after: Basis
) -> dict[str, np.ndarray]:
    name = f"blocks.{layer}.attention"
    scale = np.full(shape.width, shape.head_width**-0.5)
    folded: dict[str, np.ndarray] = {}
    match architecture.temperature:
        case Temperature.PER_HEAD:
            scale = scale / np.repeat(state[f"{name}.temperature"], shape.head_width)
        case Temperature.PER_HEAD_AND_POSITION:
            folded[tensor_name(StepName.TEMPERATURE, layer, Tensor.INVERSE)] = 1 / state[f"{name}.temperature"][:, :, None]
        case Temperature.NONE:
            pass
    maps = []
    for part in ("query", "key", "value"):
        weight, bias = _linear(state, f"{name}.{part}")
        if part == "query":
            weight, bias = weight * scale, bias * scale
        maps.append(_read(state, f"blocks.{layer}.norm_attention", basis, weight, bias))
    (query, query_bias), (key, key_bias), (value, value_bias) = maps
    all_bias = np.concatenate([query_bias, key_bias, value_bias])
    folded |= _product(StepName.QUERY_KEY_VALUE, layer, np.concatenate([query, key, value], 1), all_bias)
    if layer == shape.layers - 1:
        # The last layer narrows to one row in a pass over a prompt, so its queries are a map of their own there.
        folded |= _product(StepName.QUERY, layer, query, query_bias)
        folded |= _product(StepName.KEY_VALUE, layer, np.concatenate([key, value], 1), np.concatenate([key_bias, value_bias]))
    weight, bias = _linear(state, f"{name}.output")
    gain = _attention_gain(state, architecture, shape, layer)
    weight = gain * weight @ (after if architecture.is_parallel else basis).inverse_DD
    return folded | _product(StepName.ATTENTION_OUTPUT, layer, weight, bias if architecture.has_layer_norm else np.zeros(shape.width))


def _explicit_ffn(state: Weights, architecture: Architecture, layer: int, before: Basis, after: Basis) -> dict[str, np.ndarray]:
    norm = f"blocks.{layer}.norm_feed_forward"
    if architecture.feed_forward.is_linear:
        matrix, bias = ffn_map(state, architecture, layer)
        if architecture.has_layer_norm:
            weight, bias = _read(state, norm, before, matrix, bias)
        else:
            # The offset after this layer already holds the bias.
            weight, bias = before.matrix_DD @ matrix @ after.inverse_DD, np.zeros(len(matrix))
        return _product(StepName.FFN, layer, weight, bias)
    name = f"blocks.{layer}.feed_forward"
    expand, expand_bias = _linear(state, f"{name}.expand")
    if architecture.feed_forward is FeedForward.BILINEAR:
        gate, gate_bias = _linear(state, f"{name}.gate")
        expand, expand_bias = np.concatenate([expand, gate], 1), np.concatenate([expand_bias, gate_bias])
    contract, contract_bias = _linear(state, f"{name}.contract")
    # Without LayerNorm the attention's output bias is in the offset by now, not yet in the basis before the layer; NeoX reads before it.
    added = 0.0 if architecture.is_parallel else state[f"blocks.{layer}.attention.output.bias"]
    inside = replace(before, offset_D=before.offset_D + added)
    weight, bias = _read(state, norm, inside, expand, expand_bias)
    written_bias = contract_bias if architecture.has_layer_norm else np.zeros_like(contract_bias)
    return _product(StepName.FFN_EXPAND, layer, weight, bias) | _product(
        StepName.FFN_CONTRACT, layer, contract @ before.inverse_DD, written_bias
    )
