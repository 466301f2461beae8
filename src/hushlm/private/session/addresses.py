"""Addresses: how they are written and read, and the sockets that listen on them. IPv4 and IPv6 alike."""

from __future__ import annotations

import contextlib
import ipaddress
import socket

from hushlm.private.session.messages import SessionError, printable

__all__ = ["format_address", "is_this_machine", "listen", "listener_address", "parse_address", "plain_host", "reserve_port"]


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of HOST:PORT; an IPv6 address stands in brackets.

    Raises:
        SessionError: if it is anything else.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    numbered = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not (host and colon and numbered and host.isprintable() and " " not in host):
        raise SessionError(f"An address is written HOST:PORT, for example 127.0.0.1:9000, not {printable(text)!r}.")
    return host, int(port)


def format_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address: what `parse_address` reads."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def plain_host(host: str) -> str:
    """An IP address as it is compared: one IPv4 address that reached a socket for both families is that IPv4 address.

    Text that is no IP address comes back as it is.
    """
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return str(mapped or address)
    return host


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address says that it is the machine itself. A tunnel's end may say so too, and lead elsewhere."""
    try:
        return ipaddress.ip_address(plain_host(host)).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def listen(host: str, port: int, option: str) -> socket.socket:
    """A listening socket; a server that has just ended does not keep its port from the next one.

    Args:
        host: name or IP address of this machine.
        port: number of the port; 0 lets the system choose one.
        option: the option of the command that named them, for the error message.

    Raises:
        ValueError: the address is not this machine's, or is taken.
    """
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(100)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ValueError(
            f"The server cannot listen on {format_address(host, port)}, {error.strerror or error}: choose another address with {option}."
        ) from error
    return listener


def listener_address(listener: socket.socket) -> str:
    """HOST:PORT where a socket listens."""
    return format_address(*listener.getsockname()[:2])


def reserve_port(host: str) -> tuple[socket.socket, int]:
    """A free port of `host`, kept from others until the socket is closed; a listener with SO_REUSEADDR may be opened on it meanwhile.

    Args:
        host: IPv4 address of this machine.

    Raises:
        OSError: there is none.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reservation.bind((host, 0))
    except OSError:
        reservation.close()
        raise
    return reservation, reservation.getsockname()[1]
