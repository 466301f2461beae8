"""The engine's own link between the two parties."""

from __future__ import annotations

from hushlm.private.engine.engine_settings import Party, TlsFiles
from hushlm.private.engine.mpc_library import load_engine
from hushlm.private.engine.nudge import Nudge

__all__ = ["Channel"]


class Channel:
    """The engine's link between the two parties, over TCP, with mutual TLS unless `tls` is None.

    Args:
        party: which party this process is.
        addresses: HOST:PORT of the client's listener and of the server's.
        tls: this party's PEM files, or None for a link without encryption.
        timeout_seconds: how long to wait for a message from the peer, and thus for how long a killed or stalled peer stays unnoticed.
        connect_seconds: how long to wait for the peer's listener.

    Attributes:
        context: the engine's own object.
        nudge: keeps messages over TLS moving; None without TLS, whose buffers it is for.

    Raises:
        ConnectionError: if the peer does not answer, or if its certificate is not accepted.
    """

    def __init__(
        self,
        party: Party,
        addresses: tuple[str, str],
        tls: TlsFiles | None,
        timeout_seconds: float = 600.0,
        connect_seconds: float = 30.0,
    ) -> None:
        _, libspu = load_engine()
        description = libspu.link.Desc()
        description.recv_timeout_ms = int(timeout_seconds * 1000)
        description.http_timeout_ms = int(timeout_seconds * 1000)
        description.http_max_payload_size = 32 * 1024 * 1024
        # TCP repeats what is lost, so that a message that fails nevertheless would fail again. Three more attempts would only make a
        # stalled peer cost the timeout four times.
        description.retry_opts.max_retry = 0
        description.connect_retry_interval_ms = 100
        description.connect_retry_times = max(1, int(connect_seconds * 10))
        # Otherwise ten messages that nobody has read stop all further ones, and nobody reads a nudge. What was computed lies in memory
        # either way: unsent at one party, or unread at the other.
        description.throttle_window_size = 0
        for rank, address in zip(Party, addresses, strict=True):
            description.add_party(f"party{int(rank)}", address)
        if tls is not None:
            description.enable_ssl = True
            for options in (description.client_ssl_opts, description.server_ssl_opts):
                options.cert.certificate_path = str(tls.certificate)
                options.cert.private_key_path = str(tls.private_key)
                options.verify.ca_file_path = str(tls.authority)
                options.verify.verify_depth = 1
        try:
            self.context = libspu.link.create_brpc(description, int(party))
        except RuntimeError as error:
            raise ConnectionError(
                f"The engine's link to {addresses[party.other]} could not be opened within {connect_seconds:.0f} s: "
                "check that the peer runs, that the port is free, and that both certificates come from the same authority."
            ) from error

        self.nudge = None if tls is None else Nudge(self.context, int(party.other))
