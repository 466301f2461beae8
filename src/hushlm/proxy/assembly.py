"""Text from tokens as they come: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

__all__ = ["TextAssembler"]

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder gives for bytes that are no character yet."""


class TextAssembler:
    """Text that may be shown, token by token; together it is what decoding all tokens at once gives, up to the first stop string.

    Decodes everything again with each token: tokenizers' own stream raises on byte sequences that are no text, which a model may well
    generate.

    Args:
        decode: token ids to text.
        stops: strings that end the text and are not part of it.
    """

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._tokens: list[int] = []
        self._shown = ""
        self.settled = 0
        """Characters of the text so far that no further token can change, shown or not."""
        self.stopped = False

    @property
    def text(self) -> str:
        """All that was given out."""
        return self._shown

    def push(self, token: int) -> str:
        """What a further token lets be shown; nothing more once the text has stopped."""
        if self.stopped:
            return ""
        self._tokens.append(token)
        text = self._decode(self._tokens).rstrip(UNFINISHED)
        self.settled = len(text)
        end = self._end(text)
        if end is not None:
            self.stopped = True
            return self._show(text[:end])
        return self._show(text[: len(text) - self._held(text)])

    def finish(self) -> str:
        """The rest, after the last token."""
        if self.stopped:
            return ""
        text = self._decode(self._tokens)
        end = self._end(text)
        self.stopped = end is not None
        return self._show(text[:end])

    def _show(self, text: str) -> str:
        # A decoder may take back what it said before; what was shown stays.
        new = text[len(self._shown) :] if text.startswith(self._shown) else ""
        self._shown += new
        return new

    def _end(self, text: str) -> int | None:
        """Where the first stop string begins."""
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        return min(found, default=None)

    def _held(self, text: str) -> int:
        """Characters at the end that a stop string may begin with."""
        return max((size for stop in self._stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
