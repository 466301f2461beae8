"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

__all__ = ["TextAssembler"]


class TextAssembler:
    """Text that may be shown, token by token; together it is what decoding all tokens at once gives, up to the first stop string.

    Args:
        tokenizer: of the tokens.
        stops: strings that end the text and are not part of it.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._stream = DecodeStream(skip_special_tokens=False)
        self._tokens: list[int] = []
        self._text = ""
        self._shown = 0
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._text[: self._shown]

    @property
    def settled(self) -> int:
        """Characters that no further token can change, shown or not."""
        return len(self._text)

    def push(self, token: int) -> str:
        """What a further token lets be shown; nothing more once the text has stopped."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        self._text += self._stream.step(self._tokenizer, token) or ""
        return self._show(len(self._text) - self._held())

    def finish(self) -> str:
        """The rest, after the last token: bytes that are no character come out as the decoder shows them."""
        if self.stopped:
            return ""
        self._text += self._tokenizer.decode(self._tokens, skip_special_tokens=False)[len(self._text) :]
        return self._show(len(self._text))

    def _show(self, end: int) -> str:
        """Up to `end`, or to the first stop string."""
        stop = min((place for place in map(self._text.find, self._stops) if place >= 0), default=None)
        self.stopped = stop is not None
        new = self._text[self._shown : end if stop is None else stop]
        self._shown += len(new)
        return new

    def _held(self) -> int:
        """Characters at the end that a stop string may begin with."""
        return max((size for stop in self._stops for size in range(1, len(stop)) if self._text.endswith(stop[:size])), default=0)
