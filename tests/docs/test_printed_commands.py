"""Every command of README.md and of the guides runs as it is printed, in order, in a folder with a small trained model.

What takes too long, or needs what a test machine lacks, is marked in the document itself, by `<!-- not run: REASON -->` above its block;
`test_what_is_not_run` prints the list with `pytest -rP`.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.training import train
from tests.docs.blocks import ROOT, RUN, documents, read_blocks
from tests.docs.session import Session, free_port

PORT = 8440
"""Where the printed commands serve and ask."""
COMMAND = re.compile(r"^(?:\$ )?(?:hushlm|python|pip|make|torchrun|docker|mkdocs|pytest) ")
ANSWER = re.compile(r"^answer:\s+(.*)$", re.MULTILINE)
SAME_ANSWER = ("docs/start.md", "docs/quick-start.md", "docs/guides/serve-and-ask.md")
"""Documents that ask the same in several ways."""
NAMES = [str(path.relative_to(ROOT)) for path in documents()]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, text_folder: Path) -> Path:
    """A folder like a reader's: `my-texts`, `prompt.txt`, and `runs/mine`, a model trained on those texts for seconds."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(text_folder, folder / "my-texts")
    (folder / "prompt.txt").write_text("1 alpha beta")
    config = RunConfig.from_dict(
        {
            "architecture": "SM2+R",
            "shape": {"layers": 2, "heads": 2, "width": 16, "context": 64},
            "data": {"corpus": str(folder / "my-texts"), "validation_share": 0.1, "cache": str(folder / "runs" / "data")},
            "training": {"steps": 60, "batch": 4, "warmup_steps": 4, "evaluation_batches": 4, "threads": 1},
            "output": str(folder / "runs" / "mine"),
        }
    )
    train(replace(config), open_token_store(config.data))
    return folder


@pytest.fixture
def session(name: str, model: Path, tmp_path: Path) -> Iterator[Session]:
    """A terminal in a copy of that folder, with the repository's `examples` and `results` beside it.

    Sessions have one thread, which halves their set-up, except those of README.md, which are as the server makes them by itself.
    """
    folder = tmp_path / "reader"
    shutil.copytree(model, folder)
    for beside in ("examples", "results"):
        shutil.copytree(ROOT / beside, folder / beside)
    terminal = Session(folder, engine_threads=None if name == "README.md" else 1)
    yield terminal
    terminal.close()


def runs_something(name: str) -> bool:
    return any(block.language in RUN and not block.reason for block in read_blocks(ROOT / name))


def namespaces_are_allowed() -> bool:
    """Whether `examples/behind_a_wall.py` can run here: some systems let nobody make a network namespace."""
    command = [sys.executable, str(ROOT / "examples" / "behind_a_wall.py"), "127.0.0.1:1", "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", [name for name in NAMES if runs_something(name)])
def test_as_printed(name: str, session: Session) -> None:
    blocks = [block for block in read_blocks(ROOT / name) if block.language in RUN and not block.reason]
    if not namespaces_are_allowed():
        blocks = [block for block in blocks if "behind_a_wall.py" not in block.text]
    if any("hushlm serve" in block.text for block in blocks):
        assert free_port(PORT), f"another program listens at port {PORT}, where the printed commands serve"
    printed = "".join((session.shell if block.language == "sh" else session.python)(block.text) for block in blocks)
    if name == "README.md":
        # The perplexity that the README shows beside it depends on the interpreter's own files.
        assert "False 169445314" in printed
    if name in SAME_ANSWER:
        answers = ANSWER.findall(printed)
        assert len(answers) >= 2
        assert len(set(answers)) == 1, "privately, simulated and in plain it is the same answer"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_stands_in_a_block_that_is_run(name: str) -> None:
    """No command hides in an indented block, in a fence without a language, or behind an empty reason."""
    text = (ROOT / name).read_text()
    indented = [line for line in text.splitlines() if line.startswith("    ") and COMMAND.match(line.strip())]
    blocks = read_blocks(ROOT / name)
    inside = "".join(block.text for block in blocks)
    assert not [line for line in indented if line not in inside], "commands belong into ```sh blocks, where they are run"
    assert text.count("```") == 2 * len(blocks), "a fence is not closed, or not at the margin"
    for block in blocks:
        if block.language not in RUN:
            assert not any(COMMAND.match(line) for line in block.text.splitlines()), (
                f"line {block.line}: commands in a block that is not run"
            )
            assert not block.reason, f"line {block.line}: such a block is never run and needs no reason"


def test_what_is_not_run() -> None:
    """The list, with reasons, for whoever asks; a reason is a phrase and not a word."""
    skipped = [(name, block) for name in NAMES for block in read_blocks(ROOT / name) if block.reason]
    for name, block in skipped:
        print(f"{name}:{block.line}: {block.reason}")
        assert len(block.reason.split()) > 2
    total = sum(block.language in RUN for name in NAMES for block in read_blocks(ROOT / name))
    assert len(skipped) < total / 2, "most of what is printed is run"
