"""Text to fit a model on and text kept apart to measure it on: three domains that every Python has, or a file of the user's.

Documents alternate between the two parts; of a file, the first two thirds are fitted on and the rest is measured on.
"""

from __future__ import annotations

import importlib.metadata
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hushlm.data.text_windows import WHOLE_BYTES
from hushlm.data.tokenizer import Tokenizer

__all__ = ["WINDOW", "Sample", "sample_windows"]

WINDOW = 128
"""The most tokens of a window."""

WINDOWS = 8
"""The most windows of each part of a domain."""

_CHARACTERS_A_TOKEN = 8
"""More than a token has on average, so that no more text is encoded than is of use."""

_DESCRIPTIONS = 40
_MODULES = (
    "argparse",
    "ast",
    "asyncio/base_events",
    "configparser",
    "csv",
    "dataclasses",
    "decimal",
    "difflib",
    "email/message",
    "functools",
)
_MORE_MODULES = (
    "http/client",
    "inspect",
    "json/decoder",
    "logging/__init__",
    "pathlib",
    "random",
    "shutil",
    "statistics",
    "textwrap",
    "zipfile",
)


@dataclass(frozen=True)
class Sample:
    """Windows of one domain.

    Attributes:
        name: of the domain.
        fit_NT: token ids to fit on.
        kept_NT: token ids to measure on.
    """

    name: str
    fit_NT: Tensor
    kept_NT: Tensor


def sample_windows(tokenizer: Tokenizer, length: int, file: Path | None = None) -> list[Sample]:
    """Windows of `length` tokens, of each domain up to `WINDOWS` a part.

    Args:
        tokenizer: the model's.
        length: tokens of a window.
        file: a text file instead of the three domains.

    Raises:
        ValueError: one sentence, if the file is not UTF-8 or too short, or nothing gives a window.
    """
    if file is not None:
        text = _read(file)
        cut = 2 * len(text) // 3
        sample = Sample(file.name, *(_windows(tokenizer, [part], length) for part in (text[:cut], text[cut:])))
        if not len(sample.fit_NT) or not len(sample.kept_NT):
            raise ValueError(
                f"{file} is too short: its first two thirds must hold at least {length} tokens, and so must the rest. Give a longer text."
            )
        return [sample]
    found = []
    for name, documents in (("Python's reference", _topics()), ("Python code", _modules()), ("package descriptions", _descriptions())):
        texts = list(documents)
        sample = Sample(name, _windows(tokenizer, texts[::2], length), _windows(tokenizer, texts[1::2], length))
        if len(sample.fit_NT) and len(sample.kept_NT):
            found.append(sample)
    if not found:
        raise ValueError("This Python has no text to fit a model on (its standard library is not there): give one with --text FILE.")
    return found


def _windows(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> Tensor:
    """Windows that do not cross from one document into the next, spread over them."""
    share = max(1, -(-WINDOWS // max(1, len(texts))))
    rows: list[list[int]] = []
    for text in texts:
        ids = tokenizer.encode(text[: share * length * _CHARACTERS_A_TOKEN]).ids
        rows += [ids[start : start + length] for start in range(0, len(ids) - length + 1, length)][:share]
        if len(rows) >= WINDOWS:
            break
    return torch.tensor(rows[:WINDOWS], dtype=torch.long).reshape(-1, length)


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(WHOLE_BYTES)
    try:
        return content.decode(errors="strict" if len(content) < WHOLE_BYTES else "ignore")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text file in UTF-8.") from None


def _topics() -> Iterator[str]:
    """The pages of `help("TOPIC")`, the longer ones first."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    yield from sorted(topics.values(), key=len, reverse=True)


def _modules() -> Iterator[str]:
    """Modules of the standard library."""
    for module in (*_MODULES, *_MORE_MODULES):
        path = Path(sysconfig.get_paths()["stdlib"]) / f"{module}.py"
        if path.is_file():
            yield path.read_text(encoding="utf-8")


def _descriptions() -> Iterator[str]:
    """What installed packages say of themselves, in the order of their names."""
    named = {str(found.metadata["Name"]).lower(): found for found in importlib.metadata.distributions() if found.metadata["Name"]}
    count = 0
    for name in sorted(named):
        # The file itself: what `metadata` offers beyond its headers differs from one Python to the next.
        text = (named[name].read_text("METADATA") or "").partition("\n\n")[2]
        if len(text) > 2000:
            yield text
            count += 1
        if count == _DESCRIPTIONS:
            return
