"""A backend of the private program whose values are words of shares, and whose operations are the online forms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from types import ModuleType
from typing import Any, cast

import numpy as np

from hushlm.private.engine import Party, Traffic
from hushlm.private.engine.shares import decode
from hushlm.private.engine.small_ring import SMALL_FRACTION_BITS
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.forms.online import OnlineForms
from hushlm.private.prepared.values import ClientRows, ServerValue, SmallValue
from hushlm.private.program.steps import Arithmetic

__all__ = ["PreparedBackend"]

SMALL_TABLE_BITS = 30
"""An embedding's table is looked up modulo 2^32, and lifted into the large ring while below 2^30."""


class PreparedBackend:
    """Runs the program's steps on prepared material (`forms.begin`).

    Args:
        desk: of this party.

    Attributes:
        tensors: of the server, by name; without values at the client.
    """

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.knows_client, self.knows_server = desk.is_client, not desk.is_client
        self.tensors: dict[str, ServerValue] = {}
        self._values: dict[str, Any] = {}
        self._public: dict[str, np.ndarray] = {}
        self.forms = OnlineForms(desk, self._public)

    def put(self, name: str, owner: Party, shape: tuple[int, ...], value: np.ndarray | None) -> None:
        """Raises: ValueError for an embedding table with numbers that do not fit the ring it is looked up in."""
        assert (value is not None) == (owner is self.desk.party), f"{name}: only its owner has a value"
        if owner is Party.CLIENT:
            self._values[name] = ClientRows(shape, value)
            return
        if name == "embedding.table" and value is not None and np.abs(value).max() >= 2.0 ** (SMALL_TABLE_BITS - self.desk.fraction_bits):
            raise ValueError(
                f"The embedding table reaches {np.abs(value).max():.3g}, and prepared answers look it up in a ring of 32 bits, where "
                f"{2.0 ** (SMALL_TABLE_BITS - self.desk.fraction_bits):.0f} is the limit: serve this model without preparation."
            )
        self._values[name] = self.tensors[name] = ServerValue(name, shape, value, self.desk.fraction_bits)

    def put_public(self, name: str, value: np.ndarray) -> None:
        self._values[name] = self._public[name] = np.asarray(value, np.float64)

    def run(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], outputs: Sequence[str], public: Sequence[str]
    ) -> Traffic:
        self.forms.inputs = inputs
        results = build(cast(ModuleType, self.forms))(*(self._values[name] for name in inputs))
        results = results if isinstance(results, tuple) else (results,)
        self._values |= dict(zip(outputs, results, strict=True))
        return self.desk.take_traffic()

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        """Open a value to one party: only the other party's words move."""
        value, desk = self._values[name], self.desk
        small = isinstance(value, SmallValue)
        words = value.words if small else value
        if desk.party is not to:
            desk.link.send(words)
            return None, desk.take_traffic()
        total = words + desk.link.receive(words.shape, words.dtype)
        found = total.view(np.int32) / 2.0**SMALL_FRACTION_BITS if small else decode(total, desk.fraction_bits)
        return found, desk.take_traffic()
