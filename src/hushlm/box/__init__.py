"""The model in the box: a small language model of Python code that comes with the package, to ask and to serve without training one.

`model/` beside this file is a checkpoint like any other, its weights in float16; the README.md there is its model card. The word `box`
names it wherever a checkpoint is expected. A folder called `box` in the working directory comes first.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["MODEL", "NAME", "checkpoint_folder"]

NAME = "box"

MODEL = Path(__file__).parent / "model"
"""The folder of the checkpoint."""


def checkpoint_folder(named: Path) -> Path:
    """The folder that is meant where a checkpoint is expected: the one named, or that of the model in the box."""
    return MODEL if str(named) == NAME and not named.exists() else named
