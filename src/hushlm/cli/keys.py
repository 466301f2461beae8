"""`hushlm keys`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hushlm.private.keys.key_report import KeyEntry

__all__ = ["keys"]

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Hosts of a server's certificate where the user names none."""


def keys(
    action: Literal["create", "add-client", "renew", "show"],
    folder: Path,
    host: str = "",
    name: str = "",
    days: int = 365,
    json: bool = False,
) -> int:
    """Make the keys of a private service: an authority, a server and its clients.

    "create" writes authority, server and client, each a .pem (certificate) and a .key (private, readable by you alone). The server's
    machine needs authority.pem, server.pem and server.key; a client's needs authority.pem, client.pem and client.key. Whoever
    holds authority.key decides who may connect: keep it on neither. "add-client" writes NAME.pem and NAME.key for one more client, whose
    use a server counts by that name. "renew" replaces the key and the certificate of one party. "show" lists what lies in a folder and
    until when it is valid; it ends with exit code 1 if something is wrong with it.

    Args:
        action: "create", "add-client", "renew" or "show".
        folder: where the keys are; created if it is missing.
        host: for "create": names and IP addresses by which clients reach the server, separated by commas; without it this machine alone
            (127.0.0.1, localhost and ::1).
        name: for "add-client" the new client's name; for "renew" the client's name, or server.
        days: how many days the certificates are valid.
        json: for "show": print one JSON document.
    """
    from hushlm.private.keys.certificates import add_client, create_keys, renew
    from hushlm.private.keys.key_report import report_keys

    match action:
        case "create":
            hosts = [part.strip() for part in host.split(",") if part.strip()] if host else list(THIS_MACHINE)
            create_keys(folder, hosts, days)
            print(f"Wrote an authority, a server and a client to {folder}, valid for {days} days.")
            print(f"Clients can reach the server as {', '.join(hosts)}" + ("." if host else "; to allow other machines, add --host HOST."))
            print("The server needs authority.pem, server.pem and server.key; the client authority.pem, client.pem and client.key.")
            print("authority.key signs further clients: keep it away from both machines.")
        case "add-client":
            add_client(folder, name, days)
            print(f"Wrote {folder}/{name}.pem and {folder}/{name}.key, valid for {days} days; with authority.pem they let {name} in.")
        case "renew":
            if not name:
                raise ValueError("renew needs --name: server, client, or the client's own name.")
            end = renew(folder, name, days)
            print(
                f"Replaced {folder}/{name}.pem and {folder}/{name}.key, valid for {days} days; copy both to their machine and restart it."
            )
            print(f"The old certificate stays good until {end:%Y-%m-%d}, for there is no list of withdrawn ones.")
        case "show":
            entries = report_keys(folder)
            _show(entries, json)
            return int(any(entry.problem for entry in entries))
    return 0


def _show(entries: list[KeyEntry], json: bool) -> None:
    from hushlm.report.table import Column, Table, print_json, print_table

    if json:
        print_json({"keys": [entry.to_dict() for entry in entries]})
        return
    columns = (
        Column("file", ""),
        Column("role", "role"),
        Column("name", "name"),
        Column("hosts", "hosts", ", ".join),
        Column("valid_until", "valid until", lambda end: end[:10]),
        Column("days_left", "days left", "d", "right"),
        Column("private_key", "private key", lambda here: "here" if here else "elsewhere"),
        Column("fingerprint", "fingerprint", lambda digits: digits[:16]),
    )
    rows = [entry.to_dict() for entry in entries]
    print_table(Table("Keys", columns, rows, " ".join(entry.problem for entry in entries if entry.problem)))
