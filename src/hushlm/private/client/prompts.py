"""Prompts as tokens, at the client."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hushlm.data.tokenizer import Tokenizer
from hushlm.private.program.description import ProgramDescription

__all__ = ["encode_prompt", "load_tokenizer"]


def load_tokenizer(folder: Path, description: ProgramDescription) -> Tokenizer:
    """The tokenizer of an exported `client/` folder.

    Raises:
        ValueError: if it is missing or can't be read, or is not the one that the program was exported with.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no tokenizer: a client needs the export's client/ folder.")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != description.tokenizer:
        raise ValueError(f"{path} is not the tokenizer that this program was exported with: export it again.")
    return Tokenizer.from_str(data, str(path))


def encode_prompt(tokenizer: Tokenizer, prompt: str, context: int, new_tokens: int, truncate: bool = False) -> list[int]:
    """The token ids of a prompt that leaves room for the answer. Of a prompt that is much too long only an end is encoded.

    Args:
        tokenizer: the model's.
        prompt: the text to continue.
        context: how many tokens the model reads and writes at most.
        new_tokens: how many tokens the answer has.
        truncate: keep the last tokens of a prompt that is too long, instead of refusing it.

    Raises:
        ValueError: one sentence, if it is empty, too long or not text, see `check_text`.
    """
    if new_tokens < 1:
        raise ValueError(f"At least one token must be asked for, not {new_tokens}.")
    room = context - new_tokens
    if not prompt:
        raise ValueError("The prompt is empty: give at least one character.")
    if room < 1:
        raise ValueError(f"{new_tokens} new tokens leave no room for a prompt in a context of {context}: ask for at most {context - 1}.")
    tokens, whole = tokenizer.encode_end(prompt, room)
    if not tokens:
        raise ValueError("The tokenizer leaves nothing of this prompt: give it other characters.")
    if len(tokens) > room and not truncate:
        raise ValueError(
            f"The prompt has {'' if whole else 'more than '}{len(tokens)} tokens, and {room} fit a context of {context} with "
            f"{new_tokens} new ones: shorten it, or keep its last tokens with --truncate."
        )
    return tokens[-room:]
