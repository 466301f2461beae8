"""What a corpus gave, and what was left out of it: one line for people, one object for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["WARN_ABOVE_SHARE", "CorpusReport"]

WARN_ABOVE_SHARE = 0.01
"""A larger share of the documents left out is a warning."""


@dataclass(frozen=True)
class CorpusReport:
    """What a corpus gave.

    Attributes:
        name: the corpus.
        documents: how many documents were read.
        bytes: how much text they hold, as UTF-8.
        tokens: how many tokens each split has.
        lost: how many documents or rows with text were left out, by reason; a reason follows its number, as in "240 not UTF-8".
        empty: how many held no text at all, by reason.
        notes: how many texts were not read from the usual place, by place.
        not_read: how many files of the folder nobody asked for, by kind, as in "12 .rst".
        by_position: the splits are the beginning, middle and end of the text, because there are too few documents to choose among.
    """

    name: str
    documents: int
    bytes: int
    tokens: Mapping[str, int]
    lost: Mapping[str, int] = field(default_factory=dict)
    empty: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, int] = field(default_factory=dict)
    not_read: Mapping[str, int] = field(default_factory=dict)
    by_position: bool = False

    @property
    def lost_share(self) -> float:
        """Documents left out over all documents."""
        lost = sum(self.lost.values())
        return lost / max(lost + self.documents, 1)

    def line(self) -> str:
        """One line that says all of it."""
        tokens = ", ".join(f"{split} {count:,}" for split, count in self.tokens.items())
        said = f"{self.name}: {self.documents:,} documents, {self.bytes / 1e6:,.2f} MB, {sum(self.tokens.values()):,} tokens ({tokens})"
        if self.by_position:
            said += "; too few documents to choose among, so the splits are beginning, middle and end of the text"
        for words, counts in (
            ("left out", self.lost),
            ("without text", self.empty),
            ("among them", self.notes),
            ("not read", self.not_read),
        ):
            if counts:
                said += f"; {words}: {counted(counts)}"
        return said + "."

    def warning(self) -> str | None:
        """A sentence, if more than `WARN_ABOVE_SHARE` of the documents were left out."""
        if self.lost_share <= WARN_ABOVE_SHARE:
            return None
        return (
            f"Warning: {self.lost_share:.1%} of {self.name} was left out ({counted(self.lost)}). Files and rows are read as UTF-8: "
            "convert or mend them if they belong to the corpus."
        )

    def lines(self) -> list[str]:
        """The line, and the warning where there is one."""
        warning = self.warning()
        return [self.line(), *([warning] if warning else [])]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "name": self.name,
            "documents": self.documents,
            "bytes": self.bytes,
            "tokens": dict(self.tokens),
            "left_out": dict(self.lost),
            "without_text": dict(self.empty),
            "notes": dict(self.notes),
            "not_read": dict(self.not_read),
            "split_by_position": self.by_position,
            "warning": self.warning(),
        }


def counted(counts: Mapping[str, int]) -> str:
    """ "240 not UTF-8, 3 without text", the most frequent first."""
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
