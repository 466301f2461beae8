"""Reading numbers as people write them, like 2GB, 100M or 2,4,6. Anything else is refused in one sentence."""

from __future__ import annotations

import re

__all__ = ["parse_bytes", "parse_count", "parse_integers"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """A number of bytes from its text, e.g. 2 * 10^9 from "2GB".

    Raises:
        ValueError: in one sentence, if the text has no unit or an unknown one, or if the number is below 1.
    """
    return _parse(text, _BYTES, f"{text!r} is not a number of bytes: write one like 2GB or 500MB (1 GB is 10^9 bytes).")


def parse_count(text: str) -> int:
    """A count from its text, e.g. 124 * 10^6 from "124M".

    Raises:
        ValueError: in one sentence, for anything but a number above zero, with or without K, M, B or T.
    """
    return _parse(text, _COUNTS, f"{text!r} is not a number of parameters: write one like 124M or 1.3B.")


def _parse(text: str, units: dict[str, int], complaint: str) -> int:
    found = _NUMBER.fullmatch(text.strip())
    if found is None or found[2].upper() not in units:
        raise ValueError(complaint)
    number = round(float(found[1]) * units[found[2].upper()])
    if number < 1:
        raise ValueError(complaint)
    return number


def parse_integers(text: str, what: str) -> tuple[int, ...]:
    """Whole numbers from their text, e.g. (2, 4, 6) from "2,4,6", without repetitions.

    Args:
        text: the numbers, separated by commas.
        what: what the numbers are, as the subject of the error's sentence.

    Raises:
        ValueError: in one sentence, if the text is anything else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?\d+", part) for part in parts):
        raise ValueError(f"{what} must be whole numbers separated by commas like 2,4,6, not {text!r}.")
    return tuple(dict.fromkeys(int(part) for part in parts))
