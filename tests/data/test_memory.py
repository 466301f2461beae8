"""A text much larger than its share of memory: bounded, and with progress from the start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hushlm.data import make_tokenizer
from hushlm.data.text_windows import WHOLE_BYTES, tokens_of_file

MEASURE = """
import json, resource, sys
from pathlib import Path
from hushlm.config import DataConfig
from hushlm.data import open_corpus, open_token_store
import hushlm.data.shards as shards
shards.PIECE_BYTES = 4_000_000  # in proportion to the text
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
told = []
open_token_store(DataConfig(corpus=sys.argv[1], cache=Path(sys.argv[2])), on_bytes=told.append)
print(json.dumps([(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, told]))
"""


@pytest.mark.slow
def test_a_large_file_takes_bounded_memory(tmp_path: Path) -> None:
    """16 MB of text in one document. As one text they would take 150 bytes a token, 2.4 GB; in stretches a sixth of it suffices."""
    path = tmp_path / "large.txt"
    path.write_text("a line of a large book, again and again\n" * 400_000)
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "cache")]
    megabytes, told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert megabytes < 500
    assert sum(told) == path.stat().st_size
    assert max(told) < 3_000_000


def test_windows_of_a_large_file(tmp_path: Path) -> None:
    """Evenly spaced stretches, whole characters, and as many as are asked for; a small file is read whole."""
    path = tmp_path / "large.txt"
    line = "zeile über 東京 "
    path.write_text(line * (WHOLE_BYTES // len(line.encode()) + 1000))
    tokenizer = make_tokenizer("bytes", [])
    read = tokens_of_file(path, lambda text: tokenizer.encode(text).ids, 64, 10)
    assert len(read.tokens) == 10 * 64 + 1
    assert "10 evenly spaced stretches" in read.described
    for start in range(0, 640, 64):
        window = tokenizer.decode(read.tokens[start : start + 50].tolist()).rstrip("\N{REPLACEMENT CHARACTER}")
        assert window in line * 6
    small = tmp_path / "small.txt"
    small.write_text(line * 50)
    assert tokens_of_file(small, lambda text: tokenizer.encode(text).ids, 64, 10).tokens.tolist() == list((line * 50).encode())


def test_large_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    path.write_bytes(b"\xff" * (WHOLE_BYTES + 1))
    with pytest.raises(ValueError, match="no text file in UTF-8"):
        tokens_of_file(path, lambda text: list(text.encode()), 64, 4)
    path.write_bytes(b"a" * (WHOLE_BYTES + 1))
    with pytest.raises(ValueError, match="too few tokens for its size"):
        tokens_of_file(path, lambda text: [0], 64, 4)
