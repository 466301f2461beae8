"""Which documents are trained on and which are held out: by their names, or where there are too few of them by position."""

from __future__ import annotations

import hashlib

__all__ = ["SPLITS", "cut_by_position", "ends_by_position", "split_of"]

SPLITS = ("train", "validation", "test")


def split_of(path: str, validation_share: float) -> str:
    """The split of a document: by a hash of its relative path alone, so adding or removing files moves no other file.

    With u the first 8 bytes of sha256(path) as a fraction: "validation" for u < share, "test" for share <= u < 2 share, else "train".
    """
    fraction = int.from_bytes(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8]) / 2**64
    return "validation" if fraction < validation_share else "test" if fraction < 2 * validation_share else "train"


def ends_by_position(total_bytes: int, validation_share: float) -> tuple[int, int] | None:
    """Where the training text and the validation text of a corpus end, in bytes of text; the rest is the test split.

    Returns: None if there is too little text for every split to get some.
    """
    held_out = int(total_bytes * validation_share)
    return (total_bytes - 2 * held_out, total_bytes - held_out) if held_out > 0 else None


def cut_by_position(text: str, begin_bytes: int, ends: tuple[int, int]) -> list[tuple[str, str]]:
    """A text as stretches of the splits, in order.

    A border within the text is moved back to a line end where there is one near: within half of the validation text.

    Args:
        text: a text that UTF-8 can hold.
        begin_bytes: how much text of the corpus lies before it.
        ends: where the splits end, from `ends_by_position`.
    """
    found, at, near = [], begin_bytes, (ends[1] - ends[0]) // 2
    for split, end in zip(SPLITS, (*ends, None), strict=True):
        head = text
        if end is not None:
            content = text.encode()
            if at + len(content) > end:
                head = content[: max(end - at, 0)].decode(errors="ignore")
                line_end = head.rfind("\n", max(len(head) - near, 0)) + 1
                head = head[:line_end] if line_end else head
        if head:
            found.append((split, head))
            at += len(head.encode())
            text = text[len(head) :]
    return found
