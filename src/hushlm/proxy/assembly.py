"""Text from tokens as they come: only what no further token can change, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import tokenizers

from hushlm.data.text_stream import TextStream
from hushlm.data.tokenizer import Tokenizer

__all__ = ["TextAssembler"]


class TextAssembler:
    """Text that may be shown, token by token; together it is what decoding all tokens at once gives, up to the first stop string.

    Args:
        tokenizer: the tokenizer that the tokens belong to.
        stops: strings that end the text and are not part of it.

    Attributes:
        stopped: whether a stop string has ended the text.
    """

    def __init__(self, tokenizer: Tokenizer | tokenizers.Tokenizer, stops: Sequence[str] = ()) -> None:
        self._stream, self._stops = TextStream(tokenizer), tuple(stops)
        self._shown = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._stream.text[: self._shown]

    @property
    def settled(self) -> int:
        """How many characters no further token can change, shown or not."""
        return len(self._stream.text)

    def push(self, token: int) -> str:
        """What a further token lets be shown; nothing more once the text has stopped."""
        if self.stopped:
            return ""
        self._stream.push(token)
        return self._show(self.settled - self._held())

    def finish(self) -> str:
        """The rest, after the last token: bytes that are no character come out as the decoder shows them."""
        if self.stopped:
            return ""
        with suppress(ValueError):  # a decoder that fails on the whole leaves what it gave for a part; the tokens are paid for
            self._stream.finish()
        return self._show(self.settled)

    def _show(self, end: int) -> str:
        """What is new up to `end`, or up to the first stop string."""
        text = self._stream.text
        stop = min((place for place in map(text.find, self._stops) if place >= 0), default=None)
        self.stopped = stop is not None
        new = text[self._shown : end if stop is None else stop]
        self._shown += len(new)
        return new

    def _held(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        text = self._stream.text
        return max((size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
