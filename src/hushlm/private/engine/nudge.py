"""Messages that send the rest of an earlier one on its way.

The engine's link (brpc, before its pull request 3105) loses sight of the end of a message, up to 16 KiB of it, if the operating system
takes no more bytes just then: the end stays in a buffer of TLS until there is a next message. Where the peer answers only to the whole
message there is no next one, and both parties wait. Beside other work on two cores this stopped one session in about a hundred.
"""

from __future__ import annotations

import threading
import time
from typing import Any

__all__ = ["NUDGE", "Nudge"]

IDLE_SECONDS = 0.5
"""How long a party waits before it nudges, and then before it does so again."""

BUSY_SHARE = 0.2
"""Of a processor: a party that uses more is computing, and does not wait for its peer."""

NUDGE = "-"
"""What is sent: one byte."""


class Nudge:
    """Sends a byte to the peer whenever this process has nothing to do, which most often means that it waits for the peer.

    Nobody reads these bytes. They tell the peer that this party waits, which it knows from the messages that it does not get.

    Args:
        context: the engine's link, from which both parties spawn one beside it at the same moment.
        peer: the peer's rank.

    Attributes:
        messages: how many were sent, of one byte each. The engine counts them with its own.
    """

    def __init__(self, context: Any, peer: int) -> None:
        self._beside, self._peer, self._over = context.spawn(), peer, threading.Event()
        self.messages = 0
        threading.Thread(target=self._watch, name="hushlm-nudge", daemon=True).start()

    def stop(self) -> None:
        """Send no more: the peer is about to leave."""
        self._over.set()

    def _watch(self) -> None:
        used_seconds = time.process_time()
        while not self._over.wait(IDLE_SECONDS):
            if time.process_time() - used_seconds < BUSY_SHARE * IDLE_SECONDS:
                self.messages += 1
                try:
                    self._beside.send_async(self._peer, NUDGE)
                except RuntimeError:  # the computation reports what became of the link
                    return
            used_seconds = time.process_time()
