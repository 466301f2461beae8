"""Hush: language models that can be served without seeing the prompt.

The public API, flat: `from hushlm import train, load_checkpoint, price`. Names are imported when they are first used, so
`import hushlm` is instant and needs neither torch nor the two-party engine.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hushlm.architectures import REGISTRY as REGISTRY
    from hushlm.architectures import Architecture as Architecture
    from hushlm.architectures import parse as parse
    from hushlm.config import DataConfig as DataConfig
    from hushlm.config import EntropyConfig as EntropyConfig
    from hushlm.config import ModelShape as ModelShape
    from hushlm.config import RunConfig as RunConfig
    from hushlm.config import TrainingConfig as TrainingConfig
    from hushlm.cost import flops as flops
    from hushlm.cost import nonlinear_operations as nonlinear_operations
    from hushlm.cost import price as price
    from hushlm.data import Sampler as Sampler
    from hushlm.data import TokenStore as TokenStore
    from hushlm.data import open_token_store as open_token_store
    from hushlm.entropy import EntropyRegulariser as EntropyRegulariser
    from hushlm.entropy import EntropyRegularizer as EntropyRegularizer
    from hushlm.entropy import HeadReport as HeadReport
    from hushlm.entropy import entropy_attention as entropy_attention
    from hushlm.entropy import summarise as summarise
    from hushlm.hf import EntropyTrainer as EntropyTrainer
    from hushlm.model import LanguageModel as LanguageModel
    from hushlm.plan import decode_plan as decode_plan
    from hushlm.plan import prefill_plan as prefill_plan
    from hushlm.private.export import export_model as export_model
    from hushlm.training import Checkpoint as Checkpoint
    from hushlm.training import Divergence as Divergence
    from hushlm.training import evaluate as evaluate
    from hushlm.training import load_checkpoint as load_checkpoint
    from hushlm.training import train as train

_HOME = {
    "REGISTRY": "architectures",
    "Architecture": "architectures",
    "Checkpoint": "training",
    "DataConfig": "config",
    "Divergence": "training",
    "EntropyConfig": "config",
    "EntropyRegulariser": "entropy",
    "EntropyRegularizer": "entropy",
    "EntropyTrainer": "hf",
    "HeadReport": "entropy",
    "LanguageModel": "model",
    "ModelShape": "config",
    "RunConfig": "config",
    "Sampler": "data",
    "TokenStore": "data",
    "TrainingConfig": "config",
    "decode_plan": "plan",
    "entropy_attention": "entropy",
    "evaluate": "training",
    "export_model": "private.export",
    "flops": "cost",
    "load_checkpoint": "training",
    "nonlinear_operations": "cost",
    "open_token_store": "data",
    "parse": "architectures",
    "prefill_plan": "plan",
    "price": "cost",
    "summarise": "entropy",
    "train": "training",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hushlm")
    if name not in _HOME:
        raise AttributeError(f"module 'hushlm' has no attribute {name!r}")
    value = getattr(import_module(f"hushlm.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
