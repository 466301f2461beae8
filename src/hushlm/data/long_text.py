"""Long documents in stretches, so that no document has to fit into memory with all its tokens.

Where a text may be cut: the tokens of the stretches must be the tokens of the whole. Byte-level tokenizers, ours among them, split a
text into words before anything else, and a word never reaches over the places chosen here: after a line end between two characters
that are no white space, or before a blank between two such. Only where half a stretch has no such place is it cut anywhere.
Tokenizers that do not split into words may choose other tokens just beside a cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

__all__ = ["STRETCH_CHARACTERS", "Stretch", "stretches"]

STRETCH_CHARACTERS = 1_000_000
"""How long a stretch is at most. A tokenizer takes some 150 bytes of memory for each token while it works."""


class Stretch(str):
    """A text whose document goes on with the next text."""


def stretches(blocks: Iterable[str]) -> Iterator[str]:
    """A document in stretches. Where it is cut depends on the text alone, not on the blocks.

    Args:
        blocks: the document, in pieces of any size.

    Returns: the texts of which the document consists, all but the last a `Stretch`; an empty document is one empty text.
    """
    held = ""
    for block in blocks:
        held += block
        while len(held) > STRETCH_CHARACTERS + 1:
            end = _place_to_cut(held)
            yield Stretch(held[:end])
            held = held[end:]
    yield held


def _place_to_cut(text: str) -> int:
    low, high = STRETCH_CHARACTERS // 2, STRETCH_CHARACTERS
    for mark, after in (("\n", 1), (" ", 0)):
        place = text.rfind(mark, low, high)
        while place > low:
            if not text[place - 1].isspace() and not text[place + 1].isspace():
                return place + after
            place = text.rfind(mark, low, place)
    return high
