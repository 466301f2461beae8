"""Tiny models of transformers with random weights far from their initialisation, so that their heads differ."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY, CONTEXT = 41, 32

FAMILIES = ("gpt2", "gpt_neox", "llama")
"""LLaMA with two query heads to each key-value head."""


def prefixed(name: str, text: str) -> str:
    """The message of a comparison that failed, with the name of the tensor in front."""
    return f"{name}: {text}"


def tiny(family: str, seed: int = 0, spread: float = 0.2, **settings: Any) -> Any:
    import transformers

    ends = {"bos_token_id": None, "eos_token_id": None}
    if family == "gpt2":
        values = {"vocab_size": VOCABULARY, "n_positions": CONTEXT, "n_embd": 24, "n_layer": 3, "n_head": 4}
        dropouts = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        config = transformers.GPT2Config(**(values | dropouts | ends | settings))
    else:
        values = {
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        }
        if family == "gpt_neox":
            config = transformers.GPTNeoXConfig(**(values | ends | settings))
        else:
            config = transformers.LlamaConfig(**(values | ends | {"num_key_value_heads": 2} | settings))
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn_like(parameter))
    return model.eval()


def batch(padding: str | None = None) -> dict[str, Tensor]:
    """Three sequences; with padding, two of them are shorter."""
    tokens = torch.randint(0, VOCABULARY, (3, CONTEXT), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(tokens)
    if padding == "right":
        mask[1, 20:], mask[2, 3:] = 0, 0
    elif padding == "left":
        mask[1, :12], mask[2, :29] = 0, 0
    return {"input_ids": tokens, "attention_mask": mask}


def eager(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits, and -(p log p).sum of every row that is no padding, (L, H, N), from the attention matrices that transformers hands out."""
    model.set_attn_implementation("eager")
    output = model(**inputs, output_attentions=True)
    p_LBHTS = torch.stack(output.attentions).double()
    entropy_LBHT = -torch.where(p_LBHTS > 0, p_LBHTS * p_LBHTS.clamp_min(1e-300).log(), 0).sum(-1)
    return output.logits, entropy_LBHT.transpose(1, 2)[:, :, inputs["attention_mask"].bool()]


def save_with_tokenizer(model: Any, folder: Path, separator: bool = False) -> None:
    """As `save_pretrained` writes a model and its tokenizer: whole words, and one token more that ends documents if asked for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {f"w{i}": i for i in range(VOCABULARY)} | ({"<|endoftext|>": VOCABULARY} if separator else {})
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


def words(count: int) -> str:
    numbers = torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    return " ".join(f"w{number}" for number in numbers)


def save_gguf(model: Any, path: Path) -> None:
    """A LLaMA as llama.cpp writes it, unquantised: rotated entries are neighbours there. Its tokens are letters, and "ab"."""
    import gguf
    import numpy as np

    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*string.ascii_letters[: VOCABULARY - 1], "ab"])
    writer.add_token_merges(["a b"])
    writer.add_token_types([1] * VOCABULARY)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj"}
    parts |= {"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    parts |= {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    for layer in range(config.num_hidden_layers):
        names |= {f"blk.{layer}.{ours}": f"model.layers.{layer}.{theirs}" for ours, theirs in parts.items()}
    for ours, theirs in names.items():
        weight = state[f"{theirs}.weight"]
        if ours.endswith(("attn_q", "attn_k")):
            heads = config.num_attention_heads if ours.endswith("q") else config.num_key_value_heads
            weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)
        writer.add_tensor(f"{ours}.weight", np.ascontiguousarray(weight.numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
