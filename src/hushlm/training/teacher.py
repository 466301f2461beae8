"""The teacher of a distilled run (Hinton et al., Distilling the Knowledge in a Neural Network, arXiv:1503.02531): a checkpoint.

Which teacher it was is a setting of the run, where its folder lies is not: a fingerprint stands for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from hushlm.box import checkpoint_folder
from hushlm.config import RunConfig
from hushlm.data import TokenStore
from hushlm.files import MANIFEST, current_folder
from hushlm.model import LanguageModel
from hushlm.training.checkpoint import load_checkpoint

__all__ = ["load_teacher", "with_teacher_fingerprint"]


def with_teacher_fingerprint(config: RunConfig) -> RunConfig:
    """The config with `training.teacher_fingerprint` found in the teacher's folder, where a teacher but no fingerprint is given.

    Raises:
        ValueError: one sentence, if there is no checkpoint.
    """
    settings = config.training
    if settings.teacher is None or settings.teacher_fingerprint is not None:
        return config
    return replace(config, training=replace(settings, teacher_fingerprint=_fingerprint(settings.teacher)))


def load_teacher(config: RunConfig, store: TokenStore) -> LanguageModel | None:
    """The teacher in evaluation mode, its parameters without gradient; None if there is none.

    Args:
        config: the student's settings, from `with_teacher_fingerprint`.
        store: what the student reads.

    Raises:
        ValueError: one sentence, if it is not a whole checkpoint, not the one of the fingerprint, where the student is to be written, has
            another tokenizer or vocabulary, or reads fewer tokens than the student.
    """
    folder, wanted = config.training.teacher, config.training.teacher_fingerprint
    if folder is None:
        return None
    if folder.resolve() == config.output.resolve():
        raise ValueError(f"The teacher {folder} is where this run writes its own checkpoint: choose another output.")
    if _fingerprint(folder) != wanted:
        raise ValueError(f"{folder} holds another teacher than training.teacher_fingerprint says: use that one, or start a new run.")
    teacher = load_checkpoint(folder)
    shape = teacher.config.shape
    if teacher.tokenizer.to_str() != store.tokenizer.to_str() or shape.vocabulary != store.vocabulary:
        raise ValueError(
            f"The teacher {folder} has another tokenizer ({shape.vocabulary} tokens, and here are {store.vocabulary}): use a teacher "
            "trained with the same data.tokenizer and corpus."
        )
    if shape.context < config.shape.context:
        raise ValueError(
            f"The teacher {folder} reads {shape.context} tokens at most, and the student {config.shape.context}: lower shape.context, or "
            "use another teacher."
        )
    return teacher.model.requires_grad_(False)


def _fingerprint(folder: Path) -> str:
    """sha256 of the manifest, which holds that of every file."""
    try:
        return hashlib.sha256((checkpoint_folder(current_folder(folder)) / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        raise ValueError(f"There is no checkpoint to learn from at {folder}: training.teacher is the folder of a finished run.") from None
