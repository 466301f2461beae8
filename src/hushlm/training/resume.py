"""Which checkpoint a run goes on from, and whether it is that run's."""

from __future__ import annotations

from pathlib import Path

from hushlm.config import RunConfig
from hushlm.files import folder_candidates
from hushlm.training.checkpoint import Checkpoint, load_checkpoint

__all__ = ["MAY_DIFFER", "checkpoint_of"]

MAY_DIFFER = ("threads", "parallel", "micro_batch", "activation_checkpointing", "compile", "device", "track", "teacher", "start")
"""How a run is computed, not what: sums may round differently, no more. Which teacher and which start it has, their fingerprints say, not
their folders."""


def checkpoint_of(config: RunConfig, corpus_fingerprint: str, resume_from: Path | str | None) -> Checkpoint | None:
    """The checkpoint to go on from.

    Args:
        config: the run's settings, resolved.
        corpus_fingerprint: `TokenStore.fingerprint`.
        resume_from: a folder; "auto" for the last whole checkpoint at `config.output`, if there is any; None for none.

    Raises:
        ValueError: one sentence, if the folder holds no whole checkpoint, or another run's. Nothing is touched.
    """
    if resume_from is None:
        return None
    checkpoint = _newest(config.output) if resume_from == "auto" else load_checkpoint(resume_from)
    if checkpoint is None:
        return None
    _same_run(checkpoint.config, config)
    if checkpoint.provenance.get("corpus_fingerprint") != corpus_fingerprint:
        raise ValueError(f"{checkpoint.folder} was trained on other tokens: use the same corpus and tokenizer, or start a new run.")
    return checkpoint


def _newest(output: Path) -> Checkpoint | None:
    refused: ValueError | None = None
    for folder in folder_candidates(output):
        try:
            return load_checkpoint(folder)
        except ValueError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return None


def _same_run(saved: RunConfig, wanted: RunConfig) -> None:
    """Raises: ValueError naming the first setting in which two runs differ; where files lie and how it is computed may differ."""
    left, right = saved.to_dict(), wanted.to_dict()
    for values in (left, right):
        for name in MAY_DIFFER:
            values["training"].pop(name)
        for name in ("cache", "workers"):
            values["data"].pop(name)
        values.pop("output")
    for section, value in left.items():
        # Sizes at their default are left out of either.
        names = {**value, **right[section]} if isinstance(value, dict) else [""]
        for name in names:
            before, now = (value.get(name), right[section].get(name)) if isinstance(value, dict) else (value, right[section])
            if before != now:
                setting = f"{section}.{name}" if name else section
                raise ValueError(
                    f"The checkpoint was trained with {setting} = {before}, not {now}: resume with the same settings, or write "
                    "to another folder."
                )
