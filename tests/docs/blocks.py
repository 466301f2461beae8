"""The fenced blocks of a document that hold commands, and why some of them are not run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "documents", "read_blocks"]

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
"""Languages of the blocks that are run. Blocks of "text" and without a language are pictures and output."""
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+?) -->\n+)?(?P<fence>```+)(?P<language>\w*)\n(?P<text>.*?)^(?P=fence)$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: where it begins in its document, counted from 1.
        language: the word behind the fence.
        text: what stands inside.
        reason: why it is not run, as the document says above it; "" if it is.
    """

    line: int
    language: str
    text: str
    reason: str


def documents() -> list[Path]:
    """README.md, and every page of the site that is written by hand and shows commands."""
    pages = ("start", "quick-start", "client", "huggingface", "operate", "training", "demo", "concepts")
    return [ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in pages), *sorted((ROOT / "docs" / "guides").glob("*.md"))]


def read_blocks(document: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = document.read_text()
    return [
        Block(
            line=text.count("\n", 0, match.start("fence")) + 1,
            language=match["language"],
            text=match["text"],
            reason=match["reason"] or "",
        )
        for match in FENCE.finditer(text)
    ]
