"""Tiny models of transformers with random weights far from their initialisation, so that their heads differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCABULARY, CONTEXT = 41, 32

FAMILIES = ("gpt2", "gpt_neox", "llama")
"""LLaMA with two query heads to each key-value head."""


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


def save_with_tokenizer(model: Any, folder: Path) -> None:
    """As `save_pretrained` writes a model and its tokenizer: whole words, as many as the vocabulary has."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(folder)


def words(count: int) -> str:
    numbers = torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(3)).tolist()
    return " ".join(f"w{number}" for number in numbers)
