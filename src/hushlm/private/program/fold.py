"""Exact rewrites of a checkpoint's weights into the tensors of its private program.

Several factors are folded into the neighbouring linear maps: 1/sqrt(E) of a head of width E, a temperature per head, the gain and bias of a
LayerNorm or RMSNorm, the scale of SiLU, and the scalars alpha and beta of scaled feed-forward networks (FFNs). Linear FFNs without a norm
before them disappear. Such an
FFN computes x_out = x_sa M + c from the residual stream x_sa after attention. The residual stream is written in a moving basis,

    x_l = r_l B_l + o_l,    B_{l+1} = B_l M_l,    o_{l+1} = (o_l + b_o) M_l + c_l,

where b_o is the bias of the attention's output. Then r passes the FFN unchanged, and B is absorbed where the stream is read (as B W, with
bias o W + b) and where it is written (as W_o B^-1). B is determined up to a constant matrix on its left; it is chosen to be the identity
at a reference layer in the middle of each run of absorbed layers. Everything is computed in float64, and the result is the same function.

In GPT-NeoX blocks the FFN reads x and not x_sa, so that x_out = x M + beta (attention + b_o) + c, with beta = 1 where nothing is scaled.
Here too r passes unchanged: attention writes by beta W_o B_{l+1}^-1, and o_{l+1} = o_l M + beta b_o + c. Before a final LayerNorm the
stream must be x itself. The last basis is therefore the identity, and o, whose start can be chosen freely, ends at 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hushlm.architectures import GATE_QUADRATIC, Architecture, FeedForward, Temperature
from hushlm.config import ModelShape
from hushlm.plan import Rewrites, StepName, Tensor, tensor_name
from hushlm.private.program.polynomials import SILU_SCALE

__all__ = ["Basis", "ffn_map", "fold_weights", "moving_bases"]

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Basis:
    """The basis in which the residual stream x = r B + o is written.

    Attributes:
        matrix_DD: the matrix B.
        inverse_DD: its inverse, B^-1.
        offset_D: the offset o.
    """

    matrix_DD: np.ndarray
    inverse_DD: np.ndarray
    offset_D: np.ndarray


def _linear(state: Weights, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The weight, as (inner, outer), and the bias of a `torch.nn.Linear`; zeros where it has none."""
    weight = state[f"{name}.weight"].T
    return weight, state.get(f"{name}.bias", np.zeros(weight.shape[1]))


def ffn_map(state: Weights, architecture: Architecture, layer: int) -> tuple[np.ndarray, np.ndarray]:
    """The matrix M and the vector c of a linear FFN.

    With a norm, n M + c is the FFN's output before the residual connection is added. Without one the residual connection is part
    of the map: M = beta I + W_in W_out / alpha for scaled FFNs, and M = I + W_in W_out for the identity activation.
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
    return (matrix if architecture.has_block_norm else matrix + np.eye(len(matrix))), bias


def explicit_layers(architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> list[bool]:
    """Whether each layer computes a linear FFN as a product of its own, after which a new basis starts."""
    linear = architecture.feed_forward.is_linear
    return [
        linear and architecture.has_ffn(layer, shape.layers) and (architecture.has_block_norm or layer in rewrites.explicit_ffns)
        for layer in range(shape.layers)
    ]


def moving_bases(state: Weights, architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> list[Basis]:
    """The bases before each of the L layers and after the last one, which are L + 1.

    An explicit FFN starts a new run of layers. B is the identity at the reference layer of a run, which is its middle, or its end for
    the last run before a final LayerNorm.
    """
    explicit = explicit_layers(architecture, shape, rewrites)
    moves = architecture.feed_forward.is_linear and not architecture.has_block_norm
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
        if layer < shape.layers and not architecture.has_block_norm:
            offset = _next_offset(state, architecture, shape, layer, offset)
    return bases


def _first_offset(state: Weights, architecture: Architecture, shape: ModelShape) -> np.ndarray:
    """The offset before the first layer: 0, or with a final LayerNorm and none in the blocks the one that ends at 0."""
    last, product = np.zeros(shape.width), np.eye(shape.width)
    if not architecture.final_norm:
        return last
    for layer in range(shape.layers):
        last = _next_offset(state, architecture, shape, layer, last)
        if architecture.feed_forward.is_linear and architecture.has_ffn(layer, shape.layers):
            product = product @ ffn_map(state, architecture, layer)[0]
    return -np.linalg.solve(product.T, last)


def _attention_gain(state: Weights, architecture: Architecture, shape: ModelShape, layer: int) -> float:
    """The scalar beta of a NeoX block with a scaled FFN, which also acts on what attention adds; otherwise 1."""
    scaled = architecture.is_parallel and architecture.feed_forward.is_scaled and architecture.has_ffn(layer, shape.layers)
    return float(state[f"blocks.{layer}.feed_forward.beta"]) if scaled else 1.0


def _next_offset(state: Weights, architecture: Architecture, shape: ModelShape, layer: int, offset: np.ndarray) -> np.ndarray:
    """The offset after a block. It carries along what the biases add to the stream, so that they need not be added at every layer."""
    _, added = _linear(state, f"blocks.{layer}.attention.output")
    if not architecture.has_ffn(layer, shape.layers):
        return offset + added
    if architecture.feed_forward.is_linear:
        matrix, bias = ffn_map(state, architecture, layer)
        if architecture.is_parallel:
            return offset @ matrix + _attention_gain(state, architecture, shape, layer) * added + bias
        return (offset + added) @ matrix + bias
    return offset + added + _linear(state, f"blocks.{layer}.feed_forward.contract")[1]


def fold_weights(state: Weights, architecture: Architecture, shape: ModelShape, rewrites: Rewrites) -> dict[str, np.ndarray]:
    """Every tensor of the private program in float64, by its name (`hushlm.plan.tensor_name`).

    Args:
        state: `LanguageModel.plain_state()` as numpy arrays.
        architecture, shape: what the model is and how large it is.
        rewrites: how the program is written. Gains and linear FFNs must be folded, because the published forms are only priced.
    """
    assert rewrites.fold_affine
    assert rewrites.absorb_ffns
    bases = moving_bases(state, architecture, shape, rewrites)
    first, last = bases[0], bases[-1]
    explicit = explicit_layers(architecture, shape, rewrites)
    positions = np.zeros((shape.context, shape.width)) if architecture.is_rotary else state["positions.weight"]
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
    """The two tensors of a step that multiplies with one of the server's matrices and adds a bias."""
    return {tensor_name(step, layer, Tensor.WEIGHT): weight, tensor_name(step, layer, Tensor.BIAS): bias}


def _read(state: Weights, norm: str, basis: Basis, weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The weight and bias of a linear map that reads the stream, with a norm's gain and bias folded in, or else the basis."""
    if f"{norm}.weight" in state:
        gain = state[f"{norm}.weight"]
        return gain[:, None] * weight, bias + state.get(f"{norm}.bias", np.zeros_like(gain)) @ weight
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
        # In a pass over a prompt the last layer narrows to one row, so that its queries are a map of their own there.
        folded |= _product(StepName.QUERY, layer, query, query_bias)
        folded |= _product(StepName.KEY_VALUE, layer, np.concatenate([key, value], 1), np.concatenate([key_bias, value_bias]))
    if shape.prefix:
        folded[tensor_name(StepName.PREFIX, layer, Tensor.KEYS)] = state[f"{name}.prefix_key"]
        folded[tensor_name(StepName.PREFIX, layer, Tensor.VALUES)] = state[f"{name}.prefix_value"]
    weight, bias = _linear(state, f"{name}.output")
    gain = _attention_gain(state, architecture, shape, layer)
    weight = gain * weight @ (after if architecture.is_parallel else basis).inverse_DD
    return folded | _product(StepName.ATTENTION_OUTPUT, layer, weight, bias if architecture.has_block_norm else np.zeros(shape.width))


def _explicit_ffn(state: Weights, architecture: Architecture, layer: int, before: Basis, after: Basis) -> dict[str, np.ndarray]:
    norm = f"blocks.{layer}.norm_feed_forward"
    if architecture.feed_forward.is_linear:
        matrix, bias = ffn_map(state, architecture, layer)
        if architecture.has_block_norm:
            weight, bias = _read(state, norm, before, matrix, bias)
        else:
            # The offset after this layer already contains the bias.
            weight, bias = before.matrix_DD @ matrix @ after.inverse_DD, np.zeros(len(matrix))
        return _product(StepName.FFN, layer, weight, bias)
    name = f"blocks.{layer}.feed_forward"
    expand, expand_bias = _linear(state, f"{name}.expand")
    curve: dict[str, np.ndarray] = {}
    if architecture.feed_forward.is_gated:
        gate, gate_bias = _linear(state, f"{name}.gate")
        scale = 1.0
        if architecture.feed_forward is FeedForward.SWIGLU:
            scale = SILU_SCALE
        elif architecture.feed_forward is FeedForward.SWIGLU_QUADRATIC:
            scale, slope, constant = map(float, state[f"{name}.curve"])
            # q v^2 + c v + d - v/2 = q (v + p)^2 + r
            shift = (slope - 0.5) / (2 * GATE_QUADRATIC)
            curve[tensor_name(StepName.FFN_ACTIVATION, layer, Tensor.CURVE)] = np.array([shift, constant - GATE_QUADRATIC * shift**2])
        expand = np.concatenate([expand / scale, gate * scale], 1)
        expand_bias = np.concatenate([expand_bias / scale, gate_bias * scale])
    contract, contract_bias = _linear(state, f"{name}.contract")
    # Without a norm the FFN reads the stream after attention, whose output bias the offset before the layer does not contain yet. In
    # NeoX blocks the FFN reads the stream before attention.
    added = 0.0 if architecture.is_parallel else _linear(state, f"blocks.{layer}.attention.output")[1]
    inside = replace(before, offset_D=before.offset_D + added)
    weight, bias = _read(state, norm, inside, expand, expand_bias)
    written_bias = contract_bias if architecture.has_block_norm else np.zeros_like(contract_bias)
    return (
        curve
        | _product(StepName.FFN_EXPAND, layer, weight, bias)
        | _product(StepName.FFN_CONTRACT, layer, contract @ before.inverse_DD, written_bias)
    )
