"""Rows of a key or value cache that were opened: each once, and the masks are kept for the products of later tokens.

Rows are kept in the order in which they were opened. A new token's row takes the place (slot) of a row of padding in the engine's cache;
the padding's row stays here, dead, so that what was prepared does not depend on where the prompt ends within its bucket.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hushlm.private.engine.shares import Words

__all__ = ["LiveCacheRows", "OpenedRows"]


@dataclass(frozen=True)
class LiveCacheRows:
    """Where opened rows stand.

    Attributes:
        slots: (n,) slot of each row.
        current: (n,) whether no later row has taken its slot.
    """

    slots: np.ndarray
    current: np.ndarray


class OpenedRows:
    """Opened rows of one cache.

    Attributes:
        differences: (H, n, E), the rows less their masks, public.
        masks: (H, n, E), this party's shares of the masks.
    """

    def __init__(self, heads: int, width: int) -> None:
        self.differences = np.zeros((heads, 0, width), np.uint64)
        self.masks = np.zeros((heads, 0, width), np.uint64)
        self._slots = np.zeros(0, np.int64)

    @property
    def count(self) -> int:
        return len(self._slots)

    def live(self, new_slots: np.ndarray) -> LiveCacheRows:
        """All rows once rows at `new_slots` have come in addition."""
        slots = np.concatenate([self._slots, new_slots])
        last = {slot: place for place, slot in enumerate(slots.tolist())}
        return LiveCacheRows(slots, np.array([last[slot] == place for place, slot in enumerate(slots.tolist())]))

    def append(self, slots: np.ndarray, differences: Words, masks: Words) -> None:
        """Keep newly opened rows."""
        self.differences = np.concatenate([self.differences, differences], 1)
        masks_before, self.masks = self.masks, np.concatenate([self.masks, masks], 1)
        masks_before[...] = 0
        self._slots = np.concatenate([self._slots, slots])

    def erase(self) -> None:
        """Overwrite the masks."""
        self.masks[...] = 0
