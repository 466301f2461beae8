"""The decoder-only language model of an architecture."""

from hushlm.model.language_model import LanguageModel, ModelOutput

__all__ = ["LanguageModel", "ModelOutput"]
