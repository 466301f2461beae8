"""`hushlm keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

__all__ = ["keys"]


def keys(action: Literal["create", "add-client"], folder: Path, host: str = "", name: str = "", days: int = 365) -> None:
    """Make the keys of a private service: an authority, a server and its clients.

    "create" writes authority, server and client, each a .pem (certificate) and a .key (private, readable by you alone). The server's
    machine needs authority.pem, server.pem and server.key; a client's needs authority.pem, client.pem and client.key. Whoever
    holds authority.key decides who may connect: keep it on neither. "add-client" writes NAME.pem and NAME.key for one more client.

    Args:
        action: "create" or "add-client".
        folder: of the keys; created if it is missing.
        host: for "create": names and IP addresses by which clients reach the server, separated by commas.
        name: for "add-client": of the client.
        days: validity.
    """
    from hushlm.private.certificates import add_client, create_keys

    if action == "create":
        create_keys(folder, [part for part in host.split(",") if part], days)
        print(f"Wrote an authority, a server and a client to {folder}, valid for {days} days.")
        print("The server needs authority.pem, server.pem and server.key; the client authority.pem, client.pem and client.key.")
        print("authority.key signs further clients: keep it away from both machines.")
    else:
        add_client(folder, name, days)
        print(f"Wrote {folder}/{name}.pem and {folder}/{name}.key, valid for {days} days; with authority.pem they let {name} in.")
