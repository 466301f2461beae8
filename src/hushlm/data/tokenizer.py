"""Text to token ids and back: the one road that training, `ask`, the proxy, `entropy` and export all take.

`Tokenizer` wraps the `tokenizers` library and settles three things that every caller must agree on:

- **State.** A `tokenizer.json` may carry settings of the program that saved it: a length to cut texts at, a length to pad them to,
  and merges left out at random (BPE dropout). They are switched off, wherever the file comes from.
- **Special tokens.** `encode` never adds the special tokens of the file's template (a token that begins or ends a text): documents are
  separated in one way only, by `separator_id`, and a prompt is the beginning of a document that goes on. `decode` leaves nothing out:
  special tokens come back as they are written.
- **Errors.** What the library can't read, encode or decode is a ValueError with one sentence.

`hushlm.data.tokenizer_choice` makes the one that a configuration names.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import models

from hushlm.data.own_tokenizers import byte_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Tokenizer", "carries_state", "check_text", "is_text", "read_library_tokenizer", "separator_id"]

_SEPARATORS = ("<|endoftext|>", "</s>", "<eos>", "\u0100")
"""End of document, the first that the vocabulary has. The last is the byte NUL in the byte-level alphabet: no text file
contains it, so our own vocabularies need no special token and "bytes" has exactly 256."""

_NO_SUCH_TOKEN = "\0no such token\0"
"""A token that no vocabulary has."""


class Tokenizer:
    """Text to token ids and back, by the rules of this module.

    Args:
        library: a tokenizer of the `tokenizers` library. One that carries state is copied, not changed.

    Attributes:
        library: the library's tokenizer, without state.
    """

    def __init__(self, library: tokenizers.Tokenizer | Tokenizer) -> None:
        given: tokenizers.Tokenizer = library.library if isinstance(library, Tokenizer) else library
        self.library: tokenizers.Tokenizer = _without_state(given) if carries_state(given) else given
        self._encoder = _refusing_unknown(self.library)

    @classmethod
    def from_str(cls, text: str | bytes, name: str = "The text") -> Tokenizer:
        """A tokenizer from the content of a `tokenizer.json`.

        Args:
            text: the content.
            name: what to call it in an error.

        Raises:
            ValueError: if the library can't read it.
        """
        return cls(read_library_tokenizer(text, name))

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """A tokenizer from a `tokenizer.json`.

        Raises:
            ValueError: if the library can't read it.
            OSError: if the file can't be read at all.
        """
        return cls.from_str(path.read_bytes(), str(path))

    def encode(self, text: str) -> tokenizers.Encoding:
        """The tokens of a text; `.ids` has their numbers. No special token is added.

        Raises:
            ValueError: if the text holds bytes that are not UTF-8 or half a character, see `check_text`; or a character that the
                vocabulary has no token for, not even one for unknown characters.
        """
        with _one_sentence("encode this text", text):
            return self._encoder.encode(text, add_special_tokens=False)

    def encode_batch(self, texts: Sequence[str], kind: npt.DTypeLike = np.int64) -> list[npt.NDArray[np.integer]]:
        """The token ids of several texts, several at a time.

        Args:
            texts: each becomes an array of one dimension.
            kind: the type of the numbers.

        Raises:
            ValueError: as `encode` does.
        """
        with _one_sentence("encode these texts", *texts):
            if self.is_bytes:  # nothing to look for, so the library's search, a hundred times as slow, is not asked
                return [np.frombuffer(text.encode(), dtype=np.uint8).astype(kind) for text in texts]
            found = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
            return [np.array(encoding.ids, dtype=kind) for encoding in found]

    def encode_end(self, text: str, most: int) -> tuple[list[int], bool]:
        """The last tokens of a text, without encoding much more of a long text than is asked for.

        Args:
            text: of any length.
            most: how many tokens are of use.

        Returns: the token ids of the whole text, or of an end of it that has more than `most`; and whether it is the whole text.

        Raises:
            ValueError: as `encode` does.
        """
        # A cut may fall into a token; a few tokens more than are wanted keep its neighbourhood out of the answer.
        wanted, length = most + 32, max(4096, 8 * most)
        while length < len(text):
            ids = self.encode(text[-length:]).ids
            if len(ids) > wanted:
                return ids, False
            length *= 4
        return self.encode(text).ids, True

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of some tokens, special tokens included unless they are to be skipped.

        Numbers that the vocabulary does not have give no text. Bytes that are no character come out as U+FFFD.

        Raises:
            ValueError: if the file's decoder fails on them.
        """
        with _one_sentence("decode these tokens"):
            return self.library.decode(ids, skip_special_tokens=skip_special_tokens)

    def to_str(self, pretty: bool = False) -> str:
        """The content of a `tokenizer.json`, without state."""
        return self.library.to_str(pretty=pretty)

    def save(self, path: Path | str) -> None:
        """Write a `tokenizer.json`, without state."""
        Path(path).write_text(self.to_str(pretty=True), encoding="utf-8")

    def get_vocab_size(self) -> int:
        """How many tokens there are."""
        return self.library.get_vocab_size()

    def get_vocab(self) -> dict[str, int]:
        """Every token, as it stands in the vocabulary, with its number. Numbers may have gaps."""
        return self.library.get_vocab()

    @cached_property
    def vocabulary(self) -> int:
        """V for a model: the largest number of a token plus one."""
        return max(self.get_vocab().values()) + 1

    @cached_property
    def is_bytes(self) -> bool:
        """Whether this is the tokenizer "bytes", whose token ids are the UTF-8 bytes."""
        return self.get_vocab_size() == 256 and self.to_str() == byte_tokenizer().to_str()

    def token_to_id(self, token: str) -> int | None:
        """The number of a token as it stands in the vocabulary; None if there is none."""
        return self.library.token_to_id(token)

    def id_to_token(self, number: int) -> str | None:
        """The inverse of `token_to_id`."""
        return self.library.id_to_token(number)


def carries_state(library: tokenizers.Tokenizer) -> bool:
    """Whether a tokenizer cuts, pads or drops merges at random, which is the business of the program that saved it."""
    return library.truncation is not None or library.padding is not None or bool(getattr(library.model, "dropout", None))


def separator_id(tokenizer: Tokenizer | tokenizers.Tokenizer) -> int:
    """The token between documents.

    Raises:
        ValueError: if the vocabulary has none.
    """
    for token in _SEPARATORS:
        if (found := tokenizer.token_to_id(token)) is not None:
            return found
    raise ValueError("The tokenizer has no token that ends a document: add '<|endoftext|>' to its vocabulary.")


def is_text(text: str) -> bool:
    """Whether UTF-8 can hold a text, see `check_text`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_text(text: str) -> None:
    """Refuse text that UTF-8 can't hold.

    Raises:
        ValueError: one sentence, if it has bytes that were not UTF-8 where it was read (Python keeps them as U+DC80 to U+DCFF), or
            half a character (a lone surrogate, as a JSON string cut in the middle of an emoji has).
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        if 0xDC80 <= code <= 0xDCFF:
            raise ValueError(
                f"The text is not UTF-8, it has the byte 0x{code - 0xDC00:02X} after {error.start} characters: convert it to UTF-8."
            ) from None
        raise ValueError(
            f"The text has half a character (the lone surrogate U+{code:04X} after {error.start} characters), which is no text: remove it, "
            "or send the character whole."
        ) from None


@contextmanager
def _one_sentence(act: str, *texts: str) -> Iterator[None]:
    """What the library raises becomes a ValueError: bare Exceptions, TypeErrors about surrogates, panics of its own language."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        for text in texts:
            check_text(text)
        if "unk" in str(error).lower():  # "Missing [UNK] token", "`unk_id` is missing", "Unk token `...` not found"
            raise ValueError(
                f"The tokenizer can't {act}: it has no token for a character in it, and none for unknown characters, so the character "
                "would be lost. Use a tokenizer that takes any text (byte-level, or with byte fallback), or leave such characters out."
            ) from None
        raise ValueError(f"The tokenizer can't {act} ({_line(error)}): it may be damaged; make or download it again.") from None


def read_library_tokenizer(text: str | bytes, name: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a `tokenizer.json`, with the state that the file carries.

    Raises:
        ValueError: if the library can't read it; `name` says whose text it is.
    """
    try:
        return tokenizers.Tokenizer.from_str(text.decode() if isinstance(text, bytes) else text)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # bare Exceptions, and panics that are not even that
        raise ValueError(f"{name} is not a tokenizer.json that the tokenizers library can read: {_line(error)}.") from None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".")


def _without_state(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    library = tokenizers.Tokenizer.from_str(library.to_str())
    library.no_truncation()
    library.no_padding()
    model: Any = library.model
    if getattr(model, "dropout", None):
        model.dropout = None
    return library


def _refusing_unknown(library: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A tokenizer that fails where this one would leave a character out: a BPE without a token for unknown characters does so silently.

    Told to use a token that the vocabulary lacks, the library fails as soon as it needs it, and at no other time.
    """
    if not isinstance(library.model, models.BPE) or library.model.unk_token is not None:
        return library
    copy = tokenizers.Tokenizer.from_str(library.to_str())
    model: Any = copy.model
    model.unk_token = _NO_SUCH_TOKEN
    return copy
