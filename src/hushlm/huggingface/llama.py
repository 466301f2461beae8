"""Exchange with Hugging Face's LLaMA and with families that compute the same: Mistral without a sliding window, and Qwen2.

transformers is imported only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from hushlm.architectures import Architecture, Blocks, FeedForward, Norm
from hushlm.config import ModelShape
from hushlm.huggingface.exchange import check_class, hand_over, refuse, take_over, transformers_class
from hushlm.huggingface.taken_weights import TakenWeights
from hushlm.model.language_model import LanguageModel

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM

__all__ = ["from_hf_llama", "to_hf_llama"]

_FAMILIES = {"llama": "LLaMA", "mistral": "Mistral", "qwen2": "Qwen2"}
_ACTIVATIONS = {FeedForward.SWIGLU: "silu", FeedForward.BILINEAR: "linear"}

# Ours -> theirs, per block.
_NORMS = {"norm_attention": "input_layernorm", "norm_feed_forward": "post_attention_layernorm"}
_MATRICES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.expand": "mlp.up_proj",
    "feed_forward.contract": "mlp.down_proj",
}
_WITH_BIAS = ("attention.query", "attention.key", "attention.value")


def from_hf_llama(hf_model: LlamaForCausalLM | MistralForCausalLM | Qwen2ForCausalLM) -> LanguageModel:
    """A `LanguageModel` that computes what the LLaMA, Mistral or Qwen2 computes: Llama(SM+RMS+Swi), or the same without SiLU (B).

    Both models are run on a few tokens at the end, and their logits compared.

    Args:
        hf_model: a `LlamaForCausalLM`, `MistralForCausalLM` or `Qwen2ForCausalLM` with plain rotary positions, its head tied or not.
            Dropout, which only acts in training, is not carried over.

    Returns:
        A model with copies of the weights, of the same type and on the same device.

    Raises:
        ValueError: if transformers is missing, the model has a setting, a layer or a weight for which there is no equal here (scaled rotary
            positions, a sliding window, heads of a width of their own, a bias on the head, adapter layers, quantised weights), or its
            logits are not those of its config and weights.
    """
    check_class(hf_model, "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM")
    config = hf_model.config
    family = _FAMILIES[config.model_type]
    heads, rope, window = config.num_attention_heads, config.rope_parameters, getattr(config, "sliding_window", None)
    feed_forward = next((kind for kind, name in _ACTIVATIONS.items() if name == config.hidden_act), None)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // heads
    slides = window is not None and window < config.max_position_embeddings
    refusals = {
        f"activation {config.hidden_act!r}": feed_forward is None,
        f"rotary positions of type {rope['rope_type']!r}": rope["rope_type"] != "default",
        f"rotary positions on a share of {rope.get('partial_rotary_factor')} of every head": rope.get("partial_rotary_factor", 1.0) != 1.0,
        f"a sliding window of {window} tokens": slides or "sliding_attention" in (getattr(config, "layer_types", None) or ()),
        "a bias on attention's output": getattr(config, "attention_bias", False),
        "biases in the feed-forward networks": getattr(config, "mlp_bias", False),
        f"a width of {config.hidden_size} with {heads} heads of {head_width}": heads * head_width != config.hidden_size,
        f"heads of an odd width, {head_width},": head_width % 2 != 0,
    }
    refuse(family, refusals)
    assert feed_forward is not None
    sizes = {
        "layers": config.num_hidden_layers,
        "heads": heads,
        "width": config.hidden_size,
        "context": config.max_position_embeddings,
        "explicit_ffn_width": config.intermediate_size,
        "key_value_heads": config.num_key_value_heads,
        "norm_epsilon": config.rms_norm_eps,
        "qkv_bias": family == "Qwen2",
        "rotary_share": 1.0,
        "rotary_base": float(rope["rope_theta"]),
    }
    return take_over(hf_model, family, Architecture(norm=Norm.RMS, feed_forward=feed_forward, blocks=Blocks.LLAMA), sizes, _to_our_names)


def to_hf_llama(model: LanguageModel) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """A `LlamaForCausalLM` with copies of the weights; with biases on queries, keys and values a `Qwen2ForCausalLM`.

    Raises:
        ValueError: if transformers is missing, the architecture is not Llama(SM+RMS) with Swi or B, its rotary positions leave a part of a
            head alone, or it has a prefix.
    """
    shape, architecture = model.shape, model.architecture
    name = "Qwen2" if shape.qkv_bias else "Llama"
    hf_class, config_class = transformers_class(f"{name}ForCausalLM"), transformers_class(f"{name}Config")
    activation = _ACTIVATIONS.get(architecture.feed_forward)
    same = Architecture(norm=Norm.RMS, feed_forward=architecture.feed_forward, blocks=Blocks.LLAMA) if activation else None
    if architecture.without_regulariser() != same:
        raise ValueError(f"{architecture} is no LLaMA: only Llama(SM+RMS+Swi) and Llama(SM+RMS+B) can be written as one.")
    if shape.rotary_width != shape.head_width or shape.prefix:
        what = "a prefix" if shape.prefix else f"rotary positions on {shape.rotary_width} of {shape.head_width} entries of a head"
        raise ValueError(f"This model cannot be written as a LLaMA, which has no {what}.")
    config = config_class(
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.cache_heads,
        intermediate_size=shape.ffn_width,
        hidden_act=activation,
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.tied_head,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rotary_base},
        bos_token_id=None,  # the tokenizer's business
        eos_token_id=None,
    )
    return hand_over(model, hf_class(config), _to_their_names(model.state_dict(), shape))


def _names(shape: ModelShape) -> dict[str, str]:
    """Ours -> theirs for every tensor but embedding and head, which are laid out alike."""
    names = {"final_norm.weight": "model.norm.weight"}
    for layer in range(shape.layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        names |= {f"{ours}.{a}.weight": f"{theirs}.{b}.weight" for a, b in (_NORMS | _MATRICES).items()}
        if shape.qkv_bias:
            names |= {f"{ours}.{a}.bias": f"{theirs}.{_MATRICES[a]}.bias" for a in _WITH_BIAS}
    return names


def _to_our_names(theirs: TakenWeights, shape: ModelShape) -> dict[str, Tensor]:
    return {ours: theirs.take(name) for ours, name in _names(shape).items()}


def _to_their_names(ours: dict[str, Tensor], shape: ModelShape) -> dict[str, Tensor]:
    return {theirs: ours[name] for name, theirs in _names(shape).items()}
