"""Any causal language model of Hugging Face transformers: its head entropies measured, or trained with the entropy regulariser.

Needs transformers (`hushlm[hf]`); `EntropyTrainer` needs accelerate too, which the extra brings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hushlm.hf.attention import ENTROPY_ATTENTION, EntropyRecord, record_entropies, use_entropy_attention
from hushlm.hf.measure import HeadEntropies, measure_head_entropies, open_hf_model

if TYPE_CHECKING:
    from hushlm.hf.trainer import EntropyTrainer as EntropyTrainer

__all__ = [
    "ENTROPY_ATTENTION",
    "EntropyRecord",
    "EntropyTrainer",
    "HeadEntropies",
    "measure_head_entropies",
    "open_hf_model",
    "record_entropies",
    "use_entropy_attention",
]


def __getattr__(name: str) -> Any:
    # The trainer pulls in most of transformers; measuring does without.
    if name == "EntropyTrainer":
        from hushlm.hf.trainer import EntropyTrainer

        return EntropyTrainer
    raise AttributeError(f"module 'hushlm.hf' has no attribute {name!r}")
