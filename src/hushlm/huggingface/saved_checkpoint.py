"""A Hugging Face model as a checkpoint of ours, which `hushlm export`, `entropy` and `ask --mode plain` read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers

from hushlm.config import DataConfig, RunConfig
from hushlm.data.chat_files import ChatFiles
from hushlm.data.tokenizer import Tokenizer
from hushlm.huggingface.gpt2 import from_hf_gpt2
from hushlm.huggingface.llama import from_hf_llama
from hushlm.huggingface.neox import from_hf_gpt_neox
from hushlm.model.language_model import LanguageModel
from hushlm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["our_tokenizer", "save_hf_checkpoint", "save_taken_over", "take_over_hf"]

_FAMILIES = {
    "gpt2": from_hf_gpt2,
    "gpt_neox": from_hf_gpt_neox,
    "llama": from_hf_llama,
    "mistral": from_hf_llama,
    "qwen2": from_hf_llama,
}
"""By the `model_type` of their configs."""


def take_over_hf(hf_model: PreTrainedModel) -> LanguageModel:
    """A `LanguageModel` that computes what a model of transformers computes, in float32 on the CPU, in evaluation mode.

    Raises:
        ValueError: if the model is of no family that has an equal here, or has a setting, a layer or a weight without one.
    """
    family = hf_model.config.model_type if hasattr(hf_model, "config") else type(hf_model).__name__
    take_over = _FAMILIES.get(family)
    if take_over is None:
        raise ValueError(f"A {family} cannot be taken over: only GPT-2, GPT-NeoX (Pythia), LLaMA, Mistral and Qwen2 have an equal here.")
    return take_over(hf_model).float().cpu().eval()


def save_hf_checkpoint(
    hf_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | tokenizers.Tokenizer | Tokenizer, folder: Path | str
) -> Checkpoint:
    """Take a GPT-2, GPT-NeoX, LLaMA, Mistral or Qwen2 over and write it as a checkpoint, so that it can be exported and served privately.

        model = GPT2LMHeadModel.from_pretrained("my-fine-tuned-gpt2")
        save_hf_checkpoint(model, AutoTokenizer.from_pretrained("my-fine-tuned-gpt2"), "runs/mine")

    Thresholds that `EntropyTrainer` has added act in training only and stay behind. The checkpoint holds no training state: `hushlm train
    --resume` refuses it.

    Args:
        hf_model: for `from_hf_gpt2`, `from_hf_gpt_neox` or `from_hf_llama`; its weights are written as float32.
        tokenizer: the model's own, a fast one of transformers, or one of the tokenizers library. What it carries of its program's state
            (truncation, padding) is left out. Its chat template, its special tokens and the model's tokens for the end of an answer
            are kept, and `hushlm export` passes them on.
        folder: where; an earlier checkpoint there is replaced.

    Returns:
        The checkpoint as `load_checkpoint` reads it.

    Raises:
        ValueError: if the model has no equal here, the tokenizer is none that the tokenizers library can run, it knows more tokens than
            the model, or `folder` holds files that are not ours.
    """
    model = take_over_hf(hf_model)
    return save_taken_over(model, hf_model, tokenizer, our_tokenizer(tokenizer, model.shape.vocabulary), Path(folder))


def save_taken_over(model: LanguageModel, hf_model: PreTrainedModel, tokenizer: Any, ours: Tokenizer, folder: Path) -> Checkpoint:
    """Write what was made of a model of transformers as a checkpoint, and read it again.

    Args:
        model: the model to write.
        hf_model, tokenizer: where it comes from; what they say of conversations is kept.
        ours: the tokenizer without state.
        folder: where; an earlier checkpoint there is replaced.

    Raises:
        ValueError: if `folder` holds files that are not ours.
    """
    config = RunConfig(
        architecture=str(model.architecture),
        shape=model.shape,
        data=DataConfig(tokenizer=str(folder.absolute() / "tokenizer.json")),
        output=folder,
    )
    save_checkpoint(
        folder,
        config=config,
        model=model,
        tokenizer=ours,
        regulariser=None,
        metrics=[],
        step=0,
        corpus=f"unknown (a {hf_model.config.model_type} of Hugging Face)",
        corpus_fingerprint="",
        state=None,
        beside=_chat_files(hf_model, tokenizer).contents(),
    )
    return load_checkpoint(folder)


def _chat_files(hf_model: Any, tokenizer: Any) -> ChatFiles:
    """The chat template and the special tokens of a tokenizer of transformers, and the tokens that end the model's answers."""
    tokens = {name: str(token) for name, token in getattr(tokenizer, "special_tokens_map", {}).items() if not isinstance(token, list)}
    ends = getattr(getattr(hf_model, "generation_config", None), "eos_token_id", None)
    return ChatFiles.of(getattr(tokenizer, "chat_template", None), tokens, ends, "The model's tokenizer")


def our_tokenizer(tokenizer: Any, vocabulary: int) -> Tokenizer:
    """A tokenizer of transformers or of the tokenizers library, without state.

    Raises:
        ValueError: if it is none that the tokenizers library can run, or knows more tokens than the model's `vocabulary`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, tokenizers.Tokenizer | Tokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} has no tokenizer.json: load the model's tokenizer with AutoTokenizer, or give a fast tokenizer."
        )
    ours = Tokenizer(backend)
    if ours.get_vocab_size() > vocabulary:
        raise ValueError(f"The tokenizer knows {ours.get_vocab_size()} tokens and the model {vocabulary}: they do not belong together.")
    return ours
