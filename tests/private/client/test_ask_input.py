"""The text that `hushlm ask` is given: on standard input or as an argument, in whatever bytes."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("spu")

from tests.private.service import HUSHLM

from hushlm.cli.ask import ask
from hushlm.cli.parsing import parse_options
from hushlm.cli.text_input import MAXIMUM_INPUT_BYTES, checked_argument, decode_text
from hushlm.training import Checkpoint


def ask_plainly(checkpoint: Path, prompt: str | bytes, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [*HUSHLM, "ask", prompt, "--mode", "plain", "--model", str(checkpoint), "--new-tokens", "2", "--json"]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "stdin", "sentence"),
    [
        ("-", b"caf\xe9 ol\xe9", "hushlm: Standard input is not UTF-8: byte 4 is 0xe9."),
        (b"caf\xe9", b"", "hushlm: The prompt is not UTF-8: byte 4 is 0xe9."),
        ("-", b"\xff\xfea\0", "hushlm: Standard input is not UTF-8: byte 1 is 0xff."),
        ("-", b"", "hushlm: The prompt is empty: give at least one character."),
    ],
)
def test_what_is_no_text_is_said_in_one_sentence(served_checkpoint: Checkpoint, prompt: str | bytes, stdin: bytes, sentence: str) -> None:
    result = ask_plainly(served_checkpoint.folder, prompt, stdin)
    assert result.returncode == 2
    assert result.stdout == b""
    [line] = result.stderr.decode().splitlines()
    assert line.startswith(sentence)


@pytest.mark.slow
def test_standard_input_is_taken_byte_for_byte(served_checkpoint: Checkpoint) -> None:
    """Line ends too: the training read its files in the same way."""
    text = "3 al\r\ncaf\u00e9 \u4e16"
    result = ask_plainly(served_checkpoint.folder, "-", text.encode())
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["prompt_text"] == text
    assert answer["prompt_tokens"] == len(text.encode())


def test_arguments_and_bytes_are_the_text_that_they_spell() -> None:
    for text in ("", "a", "caf\u00e9", "\U0001f600"):
        assert checked_argument(text, "The prompt") == decode_text(text.encode(), "The prompt") == text
    with pytest.raises(ValueError, match=r"The prompt is not UTF-8: byte 2 is 0xe9\."):
        checked_argument("a\udce9", "The prompt")


@pytest.mark.slow
def test_an_endless_input_is_refused(served_checkpoint: Checkpoint) -> None:
    command = [*HUSHLM, "ask", "-", "--mode", "plain", "--model", str(served_checkpoint.folder)]
    with Path("/dev/zero").open("rb") as endless:
        result = subprocess.run(command, stdin=endless, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr == f"hushlm: Standard input has more than {MAXIMUM_INPUT_BYTES >> 20} MiB: give less text.\n"


@pytest.mark.parametrize("prompt", ["# a comment", "null", "~", "1", "a: b"])
def test_a_prompt_that_yaml_would_read_is_the_text_that_it_spells(prompt: str) -> None:
    assert parse_options("ask", ask, [prompt, "--candidates", "null"])["prompt"] == prompt
    assert parse_options("ask", ask, ["--candidates", prompt])["candidates"] == prompt
