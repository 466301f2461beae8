"""Numbers as people write them: 2GB, 100M, 2,4,6. One sentence where they are something else."""

from __future__ import annotations

import re

__all__ = ["parse_bytes", "parse_count", "parse_integers"]

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def parse_bytes(text: str) -> int:
    """ "2GB" as 2 * 10^9.

    Raises:
        ValueError: without a unit, with another one, or for nothing at all.
    """
    return _parse(text, _BYTES, f"{text!r} is not a number of bytes: write one like 2GB or 500MB (1 GB is 10^9 bytes).")


def parse_count(text: str) -> int:
    """ "124M" as 124 * 10^6.

    Raises:
        ValueError: for anything else than a number above zero, with or without K, M, B or T.
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
    """ "2,4,6" as (2, 4, 6), without repetitions.

    Args:
        what: they are, for the sentence.

    Raises:
        ValueError: if they are not whole numbers separated by commas.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"-?\d+", part) for part in parts):
        raise ValueError(f"{what} must be whole numbers separated by commas like 2,4,6, not {text!r}.")
    return tuple(dict.fromkeys(int(part) for part in parts))
