"""Other checkpoints that a run reads: the teacher that it learns from (Hinton et al., Distilling the Knowledge in a Neural Network,
arXiv:1503.02531), and the one whose weights it begins with.

Which checkpoint it was is a setting of the run, where its folder lies is not: a fingerprint stands for it.
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
from hushlm.training.checkpoint import Checkpoint, load_checkpoint

__all__ = ["load_start", "load_teacher", "with_fingerprints"]


def with_fingerprints(config: RunConfig) -> RunConfig:
    """The config with the fingerprints of its teacher and of its start, found in their folders where they are not given.

    Raises:
        ValueError: one sentence, if there is no checkpoint.
    """
    settings = config.training
    if settings.teacher is not None and settings.teacher_fingerprint is None:
        settings = replace(settings, teacher_fingerprint=_fingerprint(settings.teacher, "learn from", "training.teacher"))
    if settings.start is not None and settings.start_fingerprint is None:
        settings = replace(settings, start_fingerprint=_fingerprint(settings.start, "start from", "training.start"))
    return config if settings is config.training else replace(config, training=settings)


def load_teacher(config: RunConfig, store: TokenStore) -> LanguageModel | None:
    """The teacher in evaluation mode, its parameters without gradient; None if there is none.

    Args:
        config: the student's settings, from `with_fingerprints`.
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
    if _fingerprint(folder, "learn from", "training.teacher") != wanted:
        raise ValueError(f"{folder} holds another teacher than training.teacher_fingerprint says: use that one, or start a new run.")
    teacher = load_checkpoint(folder)
    shape = teacher.config.shape
    if teacher.tokenizer.to_str() != store.tokenizer.to_str() or shape.vocabulary != config.shape.vocabulary:
        raise ValueError(
            f"The teacher {folder} has another tokenizer ({shape.vocabulary} tokens, and here are {config.shape.vocabulary}): use a "
            "teacher trained with the same data.tokenizer and corpus."
        )
    if shape.context < config.shape.context:
        raise ValueError(
            f"The teacher {folder} reads {shape.context} tokens at most, and the student {config.shape.context}: lower shape.context, or "
            "use another teacher."
        )
    return teacher.model.requires_grad_(False)


def load_start(config: RunConfig, store: TokenStore) -> Checkpoint | None:
    """The checkpoint whose weights a run begins with, which stays as it is; None if there is none.

    Args:
        config: the run's settings, from `with_fingerprints`.
        store: what the run reads.

    Raises:
        ValueError: one sentence, if it is not a whole checkpoint, not the one of the fingerprint, where the run is to be written, or has
            another architecture, other sizes or another tokenizer.
    """
    folder, wanted = config.training.start, config.training.start_fingerprint
    if folder is None:
        return None
    if folder.resolve() == config.output.resolve():
        raise ValueError(f"The start {folder} is where this run writes its own checkpoint: choose another output.")
    if _fingerprint(folder, "start from", "training.start") != wanted:
        raise ValueError(f"{folder} holds another checkpoint than training.start_fingerprint says: use that one, or start a new run.")
    start = load_checkpoint(folder)
    own, others = config.parsed_architecture, start.model.architecture
    if replace(own, entropy_regularised=False) != replace(others, entropy_regularised=False):
        raise ValueError(f"The start {folder} is a {others}, and the run a {own}: rewrite it first (`hushlm adapt`), or train that one.")
    if start.config.shape != config.shape:
        raise ValueError(f"The start {folder} has other sizes than the run: give --shape as its config.json has it.")
    if start.tokenizer.to_str() != store.tokenizer.to_str():
        raise ValueError(f"The start {folder} has another tokenizer: give --data.tokenizer {start.folder / 'tokenizer.json'}.")
    return start


def _fingerprint(folder: Path, purpose: str, setting: str) -> str:
    """sha256 of the manifest, which holds that of every file."""
    try:
        return hashlib.sha256((checkpoint_folder(current_folder(folder)) / MANIFEST).read_bytes()).hexdigest()
    except OSError:
        raise ValueError(f"There is no checkpoint to {purpose} at {folder}: {setting} is the folder of a finished run.") from None
