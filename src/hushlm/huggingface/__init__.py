"""Any causal language model of Hugging Face transformers: its head entropies measured, or trained with the entropy regulariser.

GPT-2, GPT-NeoX, LLaMA, Mistral and Qwen2 can also be taken over as models of ours, saved as checkpoints, and written back. This room needs
transformers (`hushlm[hf]`), and `EntropyTrainer` needs accelerate too, which the extra brings. Neither is imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
