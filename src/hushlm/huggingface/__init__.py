"""Any causal language model of Hugging Face transformers: its head entropies measured, or trained with the entropy regulariser.

Also GPT-2 and GPT-NeoX there and back. Needs transformers (`hushlm[hf]`), and `EntropyTrainer` accelerate too, which the extra brings;
nothing of them is imported before it is used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
