"""Exchange with Hugging Face's GPT-NeoX (Pythia): the same function, with the weights laid out either way.

transformers is imported only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hushlm.architectures import Architecture, Blocks, FeedForward, Norm
from hushlm.config import ModelShape
from hushlm.huggingface.exchange import check_class, hand_over, refuse, take_over, transformers_class
from hushlm.huggingface.taken_weights import TakenWeights
from hushlm.model.language_model import LanguageModel
from hushlm.model.normalisation import LAYER_NORM_EPSILON

if TYPE_CHECKING:
    from transformers import GPTNeoXForCausalLM

__all__ = ["from_hf_gpt_neox", "to_hf_gpt_neox"]

_ACTIVATIONS = {FeedForward.GELU: "gelu", FeedForward.RELU: "relu", FeedForward.SQUARED_RELU: "relu2", FeedForward.IDENTITY: "linear"}

# Ours -> theirs, per block. Query, key and value are one matrix there, head by head.
_BLOCK_NAMES = {
    "norm_attention": "input_layernorm",
    "attention.output": "attention.dense",
    "norm_feed_forward": "post_attention_layernorm",
    "feed_forward.expand": "mlp.dense_h_to_4h",
    "feed_forward.contract": "mlp.dense_4h_to_h",
}
_PARTS = ("query", "key", "value")


def from_hf_gpt_neox(hf_model: GPTNeoXForCausalLM) -> LanguageModel:
    """A `LanguageModel` that computes what the GPT-NeoX computes: NeoX(SM+LN+G), or the same with another activation (R, R2 or none).

    Both models are run on a few tokens at the end, and their logits compared.

    Args:
        hf_model: a `GPTNeoXForCausalLM` with parallel residuals and plain rotary positions, its head tied or not. Dropout, which only
            acts in training, is not carried over.

    Returns:
        A model with copies of the weights, of the same type and on the same device.

    Raises:
        ValueError: if transformers is missing, the model has a setting, a layer or a weight for which there is no equal here (a bias on the
            head, adapter layers, quantised weights), or its logits are not those of its config and weights.
    """
    check_class(hf_model, "GPTNeoXForCausalLM")
    config = hf_model.config
    rope = config.rope_parameters
    feed_forward = next((kind for kind, name in _ACTIVATIONS.items() if name == config.hidden_act), None)
    rotated = int(config.hidden_size // config.num_attention_heads * rope.get("partial_rotary_factor", 1.0))
    refusals = {
        f"activation {config.hidden_act!r}": feed_forward is None,
        f"layer_norm_eps {config.layer_norm_eps}": config.layer_norm_eps != LAYER_NORM_EPSILON,
        "a sequential residual": not config.use_parallel_residual,
        "attention without biases": not config.attention_bias,
        f"rotary positions of type {rope['rope_type']!r}": rope["rope_type"] != "default",
        f"{rotated} rotated entries a head, not an even number from 2 on": rotated < 2 or rotated % 2 != 0,
        f"a width of {config.hidden_size}, no multiple of {config.num_attention_heads} heads,": config.hidden_size
        % config.num_attention_heads
        != 0,
        f"an FFN width of {config.intermediate_size}, no multiple of {config.hidden_size}": config.intermediate_size % config.hidden_size
        != 0,
    }
    refuse("GPT-NeoX", refusals)
    assert feed_forward is not None
    sizes = {
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "width": config.hidden_size,
        "context": config.max_position_embeddings,
        "ffn_multiple": config.intermediate_size // config.hidden_size,
        "rotary_share": rope.get("partial_rotary_factor", 1.0),
        "rotary_base": float(rope["rope_theta"]),
    }
    architecture = Architecture(norm=Norm.LAYER, feed_forward=feed_forward, blocks=Blocks.NEOX)
    return take_over(hf_model, "GPT-NeoX", architecture, sizes, _to_our_names)


def to_hf_gpt_neox(model: LanguageModel) -> GPTNeoXForCausalLM:
    """A `GPTNeoXForCausalLM` with copies of the weights, without dropout, computing what the model computes.

    Raises:
        ValueError: if transformers is missing, or the architecture is not NeoX(SM+LN) with G, R, R2 or no activation.
    """
    neox_class, config_class = transformers_class("GPTNeoXForCausalLM"), transformers_class("GPTNeoXConfig")
    shape, architecture = model.shape, model.architecture
    activation = _ACTIVATIONS.get(architecture.feed_forward)
    same_as_neox = Architecture(norm=Norm.LAYER, feed_forward=architecture.feed_forward, blocks=Blocks.NEOX) if activation else None
    if architecture.without_regulariser() != same_as_neox:
        raise ValueError(f"{architecture} is no GPT-NeoX: only NeoX(SM+LN) with G, R, R2 or no activation can be written as one.")
    hf_model = neox_class(
        config_class(
            vocab_size=shape.vocabulary,
            max_position_embeddings=shape.context,
            hidden_size=shape.width,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            intermediate_size=shape.ffn_width,
            hidden_act=activation,
            layer_norm_eps=LAYER_NORM_EPSILON,
            tie_word_embeddings=shape.tied_head,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": shape.rotary_base,
                "partial_rotary_factor": shape.rotary_width / shape.head_width,
            },
            bos_token_id=None,  # the tokenizer's business
            eos_token_id=None,
        )
    )
    return hand_over(model, hf_model, _to_their_names(model.state_dict(), shape))


def _to_our_names(theirs: TakenWeights, shape: ModelShape) -> dict[str, Tensor]:
    ours: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        ours[f"final_norm.{end}"] = theirs.take(f"gpt_neox.final_layer_norm.{end}")
        for layer in range(shape.layers):
            block = f"gpt_neox.layers.{layer}"
            ours |= {f"blocks.{layer}.{a}.{end}": theirs.take(f"{block}.{b}.{end}") for a, b in _BLOCK_NAMES.items()}
            by_head = theirs.take(f"{block}.attention.query_key_value.{end}").unflatten(0, (shape.heads, 3, shape.head_width))
            ours |= {f"blocks.{layer}.attention.{part}.{end}": by_head[:, i].flatten(0, 1) for i, part in enumerate(_PARTS)}
    return ours


def _to_their_names(ours: dict[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    theirs: dict[str, Tensor] = {}
    for end in ("weight", "bias"):
        theirs[f"gpt_neox.final_layer_norm.{end}"] = ours[f"final_norm.{end}"]
        for layer in range(shape.layers):
            theirs |= {f"gpt_neox.layers.{layer}.{b}.{end}": ours[f"blocks.{layer}.{a}.{end}"] for a, b in _BLOCK_NAMES.items()}
            parts = [ours[f"blocks.{layer}.attention.{part}.{end}"].unflatten(0, (shape.heads, shape.head_width)) for part in _PARTS]
            theirs[f"gpt_neox.layers.{layer}.attention.query_key_value.{end}"] = torch.stack(parts, 1).flatten(0, 2)
    return theirs
