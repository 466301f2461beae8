"""One party's half of what was prepared for one answer: used in order, each item once, and overwritten after use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from hushlm.plan.needs import IDENTITY_BYTES, Need, SquareNeed, covers
from hushlm.private.engine.shares import Words

__all__ = ["IDENTITY_BYTES", "Item", "Material", "MaterialError"]


class MaterialError(RuntimeError):
    """Prepared material was asked for twice, out of order, or beyond its end. Nothing may be sent after that."""


@dataclass
class Item:
    """Masks and shares of products for one need.

    Attributes:
        need: what it is good for.
        words: this party's words by name, as `hushlm.private.prepared.offline` says for each kind of need.
    """

    need: Need
    words: dict[str, Words] = field(repr=False)

    def erase(self) -> None:
        """Overwrite every word with zeros."""
        for words in self.words.values():
            words[...] = 0

    @property
    def size_bytes(self) -> int:
        return sum(words.nbytes for words in self.words.values())


@dataclass
class Material:
    """What was prepared for one answer.

    Attributes:
        prompt_bucket: length of the prompt, rounded up, that it was made for.
        new_tokens: of the answer, at most.
        identity: `IDENTITY_BYTES` that both halves have in common, and no other material.
        draft: how many tokens each pass after the first guesses beside its own.
    """

    prompt_bucket: int
    new_tokens: int
    identity: bytes
    _items: Sequence[Item] = field(repr=False)
    _next: int = 0
    draft: int = 0
    _seed: bytearray = field(default_factory=bytearray, repr=False)
    """Of the source that all masks were drawn from, until the first use; empty if there is none."""

    @property
    def items_left(self) -> int:
        return len(self._items) - self._next

    @property
    def size_bytes(self) -> int:
        """In memory, of this party, what is used up included."""
        return sum(item.size_bytes for item in self._items)

    def unused_items(self) -> Sequence[Item]:
        """All items, to be stored elsewhere.

        Raises:
            MaterialError: if any was taken.
        """
        if self._next:
            raise MaterialError("Some of what was prepared for this answer has been used, so it cannot be stored: prepare again.")
        return self._items

    @property
    def seed(self) -> bytes:
        """What the masks of unused material can be drawn from again; empty once anything was taken, or if it is not known."""
        return bytes(self._seed)

    def _forget_seed(self) -> None:
        self._seed[:] = bytes(len(self._seed))
        self._seed = bytearray()

    @contextmanager
    def take(self, need: Need) -> Iterator[dict[str, Words]]:
        """The next item's words, for the length of a `with` block; they are zeros after it. Copy what must live longer.

        Raises:
            MaterialError: if there is no next item, or it was made for another need.
        """
        if self._next >= len(self._items):
            raise MaterialError("Everything that was prepared for this answer has been used: prepare again.")
        item = self._items[self._next]
        if not covers(item.need, need):
            raise MaterialError(f"The next prepared item is for {item.need}, and {need} was asked for: the parties are not in step.")
        # Counted before it is used: whatever happens in the block, this item is never given out again.
        self._next += 1
        self._forget_seed()
        words = item.words
        if isinstance(need, SquareNeed):
            words = {name: each[: need.elements] for name, each in words.items()}
        try:
            yield words
        finally:
            item.erase()

    def drop(self) -> None:
        """Overwrite everything: nothing can be taken any more."""
        self._next = len(self._items)
        self._forget_seed()
        for item in self._items:
            item.erase()
