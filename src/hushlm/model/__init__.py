"""The decoder-only language model of an architecture, and its exchange with Hugging Face's GPT-2 and GPT-NeoX."""

from hushlm.model.hf import from_hf_gpt2, to_hf_gpt2
from hushlm.model.hf_neox import from_hf_gpt_neox, to_hf_gpt_neox
from hushlm.model.language_model import LanguageModel, ModelOutput

__all__ = ["LanguageModel", "ModelOutput", "from_hf_gpt2", "from_hf_gpt_neox", "to_hf_gpt2", "to_hf_gpt_neox"]
