"""Exchange with Hugging Face's GPT-2: the same function, with the weights laid out either way. GPT-NeoX has a module of its own.

transformers is imported only when a function is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hushlm.architectures import Architecture, FeedForward, Norm
from hushlm.config import ModelShape
from hushlm.huggingface.exchange import check_class, hand_over, refuse, take_over, transformers_class
from hushlm.huggingface.taken_weights import TakenWeights
from hushlm.model.language_model import LanguageModel
from hushlm.model.normalisation import LAYER_NORM_EPSILON

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

__all__ = ["from_hf_gpt2", "to_hf_gpt2"]

_ACTIVATIONS = {FeedForward.GELU: "gelu_new", FeedForward.RELU: "relu", FeedForward.SQUARED_RELU: "relu2", FeedForward.IDENTITY: "linear"}

# Ours -> theirs, per block. Theirs are Conv1D, so matrices are transposed; query, key and value are one matrix there.
_BLOCK_NAMES = {
    "norm_attention": "ln_1",
    "attention.output": "attn.c_proj",
    "norm_feed_forward": "ln_2",
    "feed_forward.expand": "mlp.c_fc",
    "feed_forward.contract": "mlp.c_proj",
}


def from_hf_gpt2(hf_model: GPT2LMHeadModel) -> LanguageModel:
    """A `LanguageModel` that computes what the GPT-2 computes (SM+LN+G; with "relu", "relu2", "linear" SM+LN+R, SM+LN+R2, SM+LN).

    Both models are run on a few tokens at the end, and their logits compared.

    Args:
        hf_model: a `GPT2LMHeadModel`, its head tied to the embedding or not. Dropout, which only acts in training, is not carried over.

    Returns:
        A model with copies of the weights, of the same type and on the same device.

    Raises:
        ValueError: if transformers is missing, the model has a setting, a layer or a weight for which there is no equal here (a bias on the
            head, adapter layers, quantised weights), or its logits are not those of its config and weights.
    """
    check_class(hf_model, "GPT2LMHeadModel")
    config = hf_model.config
    feed_forward = next((kind for kind, name in _ACTIVATIONS.items() if name == config.activation_function), None)
    inner = config.n_inner or 4 * config.n_embd
    refusals = {
        f"activation {config.activation_function!r}": feed_forward is None,
        f"layer_norm_epsilon {config.layer_norm_epsilon}": config.layer_norm_epsilon != LAYER_NORM_EPSILON,
        "unscaled attention": not config.scale_attn_weights,
        "attention scaled by layer": config.scale_attn_by_inverse_layer_idx,
        "cross-attention": config.add_cross_attention,
        f"a width of {config.n_embd}, no multiple of {config.n_head} heads,": config.n_embd % config.n_head != 0,
        f"an FFN width of {inner}, no multiple of {config.n_embd}": inner % config.n_embd != 0,
    }
    refuse("GPT-2", refusals)
    assert feed_forward is not None
    sizes = {
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "context": config.n_positions,
        "ffn_multiple": inner // config.n_embd,
    }
    return take_over(hf_model, "GPT-2", Architecture(norm=Norm.LAYER, feed_forward=feed_forward), sizes, _to_our_names)


def to_hf_gpt2(model: LanguageModel) -> GPT2LMHeadModel:
    """A `GPT2LMHeadModel` with copies of the weights, without dropout, computing what the model computes.

    Raises:
        ValueError: if transformers is missing, or the architecture is not exact softmax with LayerNorm and G, R, R2 or the identity FFN.
    """
    gpt2_class, config_class = transformers_class("GPT2LMHeadModel"), transformers_class("GPT2Config")
    shape, architecture = model.shape, model.architecture
    activation = _ACTIVATIONS.get(architecture.feed_forward)
    same_as_gpt2 = Architecture(norm=Norm.LAYER, feed_forward=architecture.feed_forward) if activation else None
    if architecture.without_regulariser() != same_as_gpt2:
        raise ValueError(f"{architecture} is no GPT-2: only SM+LN+G, SM+LN+R, SM+LN+R2 and SM+LN can be written as one.")
    hf_model = gpt2_class(
        config_class(
            vocab_size=shape.vocabulary,
            n_positions=shape.context,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            n_inner=shape.ffn_width,
            activation_function=activation,
            layer_norm_epsilon=LAYER_NORM_EPSILON,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            tie_word_embeddings=shape.tied_head,
            bos_token_id=None,  # the tokenizer's business; GPT-2's own 50256 may lie outside the vocabulary
            eos_token_id=None,
        )
    )
    return hand_over(model, hf_model, _to_their_names(model.state_dict(), shape.layers))


def _to_our_names(theirs: TakenWeights, shape: ModelShape) -> dict[str, Tensor]:
    ours = {"positions.weight": theirs.take("transformer.wpe.weight")}
    for end in ("weight", "bias"):
        ours[f"final_norm.{end}"] = theirs.take(f"transformer.ln_f.{end}")
        for layer in range(shape.layers):
            block = f"transformer.h.{layer}"
            ours |= {f"blocks.{layer}.{a}.{end}": _transposed(theirs.take(f"{block}.{b}.{end}")) for a, b in _BLOCK_NAMES.items()}
            thirds = theirs.take(f"{block}.attn.c_attn.{end}").chunk(3, dim=-1)
            ours |= {
                f"blocks.{layer}.attention.{name}.{end}": _transposed(third)
                for name, third in zip(("query", "key", "value"), thirds, strict=True)
            }
    return ours


def _to_their_names(ours: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    theirs = {"transformer.wpe.weight": ours["positions.weight"]}
    for end in ("weight", "bias"):
        theirs[f"transformer.ln_f.{end}"] = ours[f"final_norm.{end}"]
        for layer in range(layers):
            theirs |= {f"transformer.h.{layer}.{b}.{end}": _transposed(ours[f"blocks.{layer}.{a}.{end}"]) for a, b in _BLOCK_NAMES.items()}
            thirds = [ours[f"blocks.{layer}.attention.{name}.{end}"] for name in ("query", "key", "value")]
            theirs[f"transformer.h.{layer}.attn.c_attn.{end}"] = _transposed(torch.cat(thirds))
    return theirs


def _transposed(x: Tensor) -> Tensor:
    return x.T.contiguous() if x.ndim == 2 else x
