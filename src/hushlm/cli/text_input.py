"""Text that a user gives to a command: on standard input or as an argument. It must be UTF-8."""

from __future__ import annotations

import sys

__all__ = ["MAXIMUM_INPUT_BYTES", "checked_argument", "decode_text", "read_standard_input"]

MAXIMUM_INPUT_BYTES = 64 << 20
"""Most that is read from standard input: far more than any context holds, so that an endless input is refused in bounded memory."""


def read_standard_input() -> str:
    """All of standard input, byte for byte: line ends stay as they are.

    Raises:
        ValueError: one sentence: it is closed, longer than `MAXIMUM_INPUT_BYTES`, or not UTF-8.
    """
    if sys.stdin is None or sys.stdin.closed:
        raise ValueError("Standard input is closed: give the text there, for example with `< prompt.txt`.")
    data = sys.stdin.buffer.read(MAXIMUM_INPUT_BYTES + 1)
    if len(data) > MAXIMUM_INPUT_BYTES:
        raise ValueError(f"Standard input has more than {MAXIMUM_INPUT_BYTES >> 20} MiB: give less text.")
    return decode_text(data, "Standard input")


def decode_text(data: bytes, what: str) -> str:
    """Decode UTF-8.

    Args:
        data: the bytes.
        what: what they are, to begin the sentence of the error with.

    Raises:
        ValueError: one sentence, with the place of the first byte that is not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{what} is not UTF-8: byte {error.start + 1} is 0x{data[error.start]:02x}. Convert it first, "
            "for example with `iconv -f latin1 -t utf-8`."
        ) from error


def checked_argument(text: str, what: str) -> str:
    """An argument of the command line as it is, if its bytes were UTF-8.

    Raises:
        ValueError: one sentence, if they were not: Python then stands surrogates in for them, which no tokenizer takes.
    """
    return decode_text(text.encode(errors="surrogateescape"), what)
