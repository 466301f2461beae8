"""Guesses of a small model that the client has in the clear, for passes that check several tokens at once (`drafts`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hushlm.box import checkpoint_folder
from hushlm.data.tokenizer import Tokenizer
from hushlm.files import current_folder
from hushlm.private.program.drafts import Guess

__all__ = ["check_draft_model", "model_guesses"]


def check_draft_model(folder: Path, tokenizer: Tokenizer) -> Path:
    """See to it that a checkpoint guesses tokens of the model that is asked.

    Returns: where it lies, absolute.

    Raises:
        ValueError: one sentence: there is no checkpoint, or its tokenizer is another one.
    """
    found = checkpoint_folder(folder).absolute()
    path = current_folder(found) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no checkpoint: --draft names one that `hushlm train` or `hushlm import` wrote.")
    if Tokenizer.from_file(path).to_str() != tokenizer.to_str():
        raise ValueError(f"The model in {folder} has another tokenizer than the one that is asked, so it cannot guess its tokens.")
    return found


def model_guesses(folder: Path) -> Guess:
    """Greedy continuations by a checkpoint, which see as many of the last tokens as its context holds.

    Raises:
        ValueError: if it cannot be loaded, see `load_checkpoint`.
    """
    # Torch, which a client without such a model does not need.
    from hushlm.training import load_checkpoint

    model = load_checkpoint(folder).model.eval()

    def guess(tokens: Sequence[int], count: int) -> list[int]:
        count = min(count, model.shape.context - 1)
        return model.greedy(list(tokens)[count - model.shape.context :], count)

    return guess
