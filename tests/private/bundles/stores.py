"""Stores and materials for tests: a material's words follow from its name, so that another process can make the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from hushlm.plan.needs import AttendNeed, MultiplyNeed, ProjectNeed, SquareNeed
from hushlm.private.bundles import BundleStore
from hushlm.private.engine import Party
from hushlm.private.prepared.material import IDENTITY_BYTES, Item, Material

PROGRAM, PEER = "f" * 64, "alice"


def identity_of(name: str) -> str:
    return hashlib.sha256(name.encode()).digest()[:IDENTITY_BYTES].hex()


def made(name: str, prompt_bucket: int = 32, new_tokens: int = 2, draft: int = 0) -> Material:
    """A small material of several kinds of need."""
    numbers = np.random.default_rng(list(name.encode()))

    def words(*shape: int) -> np.ndarray:
        return numbers.integers(0, 2**64, shape, np.uint64)

    items = [
        Item(ProjectNeed("table", 2, 3, 4, 32), {"product": words(2, 4), "mask": words(2, 3).astype(np.uint32)}),
        Item(AttendNeed("0.cache.keys", "keys", 2, 3, 4, 0, 3, True), {"left": words(2, 3, 4), "right": words(2, 3, 4)}),
        Item(SquareNeed(5), {"mask": words(5), "product": words(5)}),
        Item(MultiplyNeed(0), {"left": words(0)}),
    ]
    return Material(prompt_bucket, new_tokens, bytes.fromhex(identity_of(name)), items, draft=draft)


def content(material: Material) -> list[tuple[object, dict[str, tuple[str, tuple[int, ...], bytes]]]]:
    """All of it, to be compared: needs, and words by name with type, shape and bytes."""
    return [
        (item.need, {name: (words.dtype.str, words.shape, words.tobytes()) for name, words in sorted(item.words.items())})
        for item in material.unused_items()
    ]


def store(folder: Path, party: Party = Party.SERVER, peer: str = PEER, limit_bytes: int | None = None) -> BundleStore:
    return BundleStore(folder, party, peer, limit_bytes)


def stored(folder: Path, *names: str) -> BundleStore:
    """A store with such materials."""
    kept = store(folder)
    for name in names:
        kept.add(made(name), PROGRAM)
    return kept


def file_of(kept: BundleStore, name: str) -> Path:
    return kept.folder / f"{identity_of(name)}.bundle"
