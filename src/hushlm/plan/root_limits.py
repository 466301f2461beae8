"""Where the prepared form of an inverse root goes over from one polynomial to the next: the same for every model."""

from __future__ import annotations

__all__ = ["ROOT_LIMITS", "ROOT_LOW_LIMITS"]

ROOT_LOW_LIMITS = 6 + 2 * 22
"""So many of `ROOT_LIMITS` are below 2^10; the largest numbers that a ring of 64 bits holds need another unit in one of 32."""

ROOT_LIMITS = (*(2.0**k for k in range(-18, -12)), *(2.0 ** (k / 2) for k in range(-24, 24)), *(2.0**k for k in range(12, 16)))
"""Octaves, and half octaves from 2^-12 to 2^12, where cubic polynomials are within 4e-5 of the inverse root, instead of 7e-4."""
