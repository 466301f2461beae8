"""The last bytes that left this machine on a session's links, for whoever wants to look at them."""

from __future__ import annotations

from hushlm.private.session.engine_links import Role

__all__ = ["SAMPLE_BYTES", "SentSample"]

SAMPLE_BYTES = 64
"""Of each link."""


class SentSample:
    """What was sent last on each link of one session: records of the engine's own TLS, which are ciphertext from the handshake on.

    The control channel, which says lengths and names, does not pass here, and neither does any text.
    """

    def __init__(self) -> None:
        self._last: dict[Role, bytes] = {}

    def note(self, caller: Role, sent: bytes) -> None:
        """Keep the end of what was sent on a link, which the engine of `caller` opened."""
        self._last[caller] = (self._last.get(caller, b"") + sent[-SAMPLE_BYTES:])[-SAMPLE_BYTES:]

    def last(self) -> dict[Role, bytes]:
        """At most `SAMPLE_BYTES` of each link on which something was sent, by the caller of the link."""
        return dict(self._last)
