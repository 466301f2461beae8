"""Windows of tokens from a text file of any size, without reading a large one whole."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["WHOLE_BYTES", "FileTokens", "tokens_of_file"]

WHOLE_BYTES = 4_000_000
"""A larger file is not read whole: tokens take a hundred times the memory of their text while they are made."""

_MAX_BYTES_A_TOKEN = 64
"""How much text is read for a token at most, before a text is called too poor in tokens for its windows."""


@dataclass(frozen=True)
class FileTokens:
    """Tokens of a text file.

    Attributes:
        tokens: token ids, one dimension: of the whole file, or of stretches of it, each with one token more than a window.
        described: which text that is, in words.
    """

    tokens: npt.NDArray[np.uint32]
    described: str


def tokens_of_file(file: Path, encode: Callable[[str], Sequence[int]], context: int, windows: int) -> FileTokens:
    """The tokens of a file; of one above `WHOLE_BYTES` those of evenly spaced stretches, one for each window.

    Args:
        file: a text file in UTF-8. Of a large one, only what is read is checked.
        encode: text to token ids.
        context: how many tokens a window has.
        windows: how many windows are of use.

    Raises:
        ValueError: one sentence, if the file is not UTF-8, or gives too few tokens for a window.
    """
    size = file.stat().st_size
    if size <= WHOLE_BYTES:
        ids = np.array(encode(_decode(file, file.read_bytes(), whole=True)), dtype=np.uint32)
        if len(ids) <= context:
            raise ValueError(
                f"{file} has {len(ids)} tokens, and one window takes {context + 1}: give a longer text or a smaller --context."
            )
        return FileTokens(ids, str(file))
    found = list(_stretches(file, size, encode, context, windows))
    described = f"{file} ({size / 1e6:,.0f} MB, of which {len(found)} evenly spaced stretches are read)"
    if not found:
        raise ValueError(f"{file} gives no window of {context} tokens: give another text or a smaller --context.")
    # Windows begin where stretches do. The last target of a window lies in the next stretch: entropies are of use here, not the loss.
    return FileTokens(np.concatenate([*found, found[-1][-1:]]), described)


def _stretches(
    file: Path, size: int, encode: Callable[[str], Sequence[int]], context: int, windows: int
) -> Iterator[npt.NDArray[np.uint32]]:
    with file.open("rb") as opened:
        for place in np.linspace(0, size, windows, endpoint=False, dtype=np.int64).tolist():
            length = 8 * (context + 1)
            while True:
                opened.seek(place)
                content = opened.read(length)
                # Not in the middle of a character.
                while place and content and content[0] & 0xC0 == 0x80:
                    content = content[1:]
                ids = encode(_decode(file, content, whole=False))
                if len(ids) >= context:
                    yield np.array(ids[:context], dtype=np.uint32)
                    break
                if place + length >= size:
                    break  # too near the end
                if length > _MAX_BYTES_A_TOKEN * (context + 1) * 16:
                    raise ValueError(f"{file} has too few tokens for its size around byte {place:,}: is it text?")
                length *= 2


def _decode(file: Path, content: bytes, *, whole: bool) -> str:
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(content, final=whole)
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text file in UTF-8.") from None
