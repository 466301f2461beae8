"""A checkpoint and the text to look at it with; shared by `hushlm eval` and `hushlm entropy`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hushlm.cli.reading import open_and_tell

if TYPE_CHECKING:
    from hushlm.data import Tokens, TokenStore
    from hushlm.training import Checkpoint, Evaluation

__all__ = ["HeldOut", "open_held_out"]


@dataclass(frozen=True)
class HeldOut:
    """A checkpoint with a split of a corpus, in the checkpoint's own tokens.

    Attributes:
        same_corpus: the corpus is, byte for byte, the one trained on.
    """

    checkpoint: Checkpoint
    store: TokenStore
    split: str
    same_corpus: bool

    @property
    def tokens(self) -> Tokens:
        """Token ids of the split."""
        return self.store.tokens[self.split]

    def evaluate(self, batches: int) -> Evaluation:
        """Perplexity and head entropies on evenly spaced windows.

        Raises:
            ValueError: if the split is shorter than one window.
        """
        from hushlm.training import evaluate, linear_algebra_threads

        config = self.checkpoint.config
        with linear_algebra_threads(config):
            return evaluate(self.checkpoint.model, self.tokens, config.training.batch, config.shape.context, batches)

    def describe(self) -> str:
        """The text, for a title."""
        return f"{self.split} split of {self.store.corpus_name}" + ("" if self.same_corpus else " (not the corpus trained on)")


def open_held_out(folder: Path, split: str, corpus: str | None) -> HeldOut:
    """Load a checkpoint and open its corpus, or another one.

    Args:
        folder: the checkpoint's folder.
        split: "train", "validation" or "test".
        corpus: another corpus, as in `DataConfig.corpus`, read with the checkpoint's tokenizer; None for the corpus of the run.

    Raises:
        ValueError: one sentence: not a whole checkpoint, no such corpus, or a corpus that gives another vocabulary by now.
    """
    from hushlm.training import load_checkpoint

    checkpoint = load_checkpoint(folder)
    data = checkpoint.config.data
    if corpus is not None:
        tokenizer = data.tokenizer if data.tokenizer == "bytes" else str(checkpoint.folder / "tokenizer.json")
        data = replace(data, corpus=corpus, tokenizer=tokenizer)
    store = open_and_tell(data, is_new=False)
    if store.tokenizer.to_str() != checkpoint.tokenizer.to_str():
        raise ValueError(
            f"Vocabulary mismatch: {data.tokenizer} on {store.corpus_name} gives other tokens than {folder} was trained on, because the "
            f"text has changed since: add --corpus {data.corpus} to read the text with the checkpoint's own tokenizer."
        )
    return HeldOut(checkpoint, store, split, store.fingerprint == checkpoint.provenance.get("corpus_fingerprint"))
