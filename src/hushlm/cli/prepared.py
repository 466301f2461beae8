"""`hushlm prepared`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hushlm.private.bundles import BundleInfo, BundleStore

__all__ = ["prepared"]

SHOWN_DIGITS = 12
"""Of an identity, in the table; as many or more name one with --identity."""


def prepared(
    action: Literal["list", "drop"],
    keys: Path | None = None,
    client: str = "client",
    prepared_folder: Path | None = None,
    server_folder: Path | None = None,
    peer: str = "",
    identity: str = "",
    everything: bool = False,
    json: bool = False,
) -> None:
    """Show or drop the prepared answers that a client or a server keeps.

    "list" shows for each one its lengths, bytes and age. "drop" overwrites and removes those that are named; the other side drops its
    halves when they next meet. At the client name the folder of keys, or the folder given to prepare with --prepared-folder; at the server
    the folder that serve was given with --prepare-folder.

    Args:
        action: "list" or "drop".
        keys: at a client, its folder of keys.
        client: name of the client's .pem and .key there.
        prepared_folder: at a client, the folder of prepared answers, if it is not beside the keys.
        server_folder: at a server, its folder of prepared answers.
        peer: only those with this server (HOST:PORT) or this client (the name in its certificate).
        identity: only the one whose identity begins with these digits, at least 12.
        everything: for "drop": all of them.
        json: print one JSON document.
    """
    from hushlm.extras import require_engine

    if (server_folder is not None) == (keys is not None or prepared_folder is not None):
        raise ValueError("prepared needs either --keys (or --prepared-folder), at a client, or --server-folder, at a server.")
    if identity and (len(identity) < SHOWN_DIGITS or not set(identity) <= set("0123456789abcdef")):
        raise ValueError(f"--identity needs at least {SHOWN_DIGITS} digits of the identity, as `hushlm prepared list` shows them.")
    for named in (keys, prepared_folder, server_folder):
        if named is not None and not named.is_dir():
            raise ValueError(f"There is no folder {named}.")
    if action == "drop" and not (peer or identity or everything):
        raise ValueError("drop needs to know which: --identity, --peer, or --everything.")
    require_engine()
    from hushlm.private.bundles import BundleStore, peers_of
    from hushlm.private.client.prepared_shelf import prepared_folder as beside
    from hushlm.private.engine import Party

    party = Party.CLIENT if server_folder is None else Party.SERVER
    folder = server_folder or prepared_folder or (beside(keys, client) if keys is not None else Path())
    stores = [(name, BundleStore(folder, party, name)) for name in peers_of(folder, party) if peer in ("", name)]
    found = [(name, store, info) for name, store in stores for info in store.list() if info.identity.startswith(identity)]
    if identity and not found:
        raise ValueError(f"There is no prepared answer {identity} in {folder}: `hushlm prepared list` shows what there is.")
    if action == "drop":
        for _, store, info in found:
            store.drop(info.identity)
    _show(action, folder, found, json)


def _show(action: str, folder: Path, found: list[tuple[str, BundleStore, BundleInfo]], json: bool) -> None:
    from datetime import UTC, datetime

    from hushlm.report.table import Column, Table, print_json, print_table

    now = datetime.now(UTC)
    rows = [
        {
            "peer": name,
            "identity": info.identity,
            "prompt_tokens": info.prompt_bucket,
            "new_tokens": info.new_tokens,
            "draft": info.draft,
            "bytes": info.size_bytes,
            "created_at": info.created_at,
            "age_seconds": round((now - datetime.fromisoformat(info.created_at)).total_seconds()),
            "program": info.fingerprint,
            "problem": info.problem,
        }
        for name, _, info in found
    ]
    whole = sum(info.size_bytes for _, _, info in found)
    if json:
        print_json({"action": action, "folder": str(folder), "count": len(rows), "bytes": whole, "prepared": rows})
        return
    if action == "drop":
        print(f"Dropped {len(rows)} prepared answer{'s' * (len(rows) != 1)}, {whole / 1e6:.1f} MB, in {folder}.")
        return
    columns = (
        Column("peer", "with"),
        Column("identity", "identity", lambda digits: digits[:SHOWN_DIGITS]),
        Column("prompt_tokens", "prompt (tokens)", "d", "right"),
        Column("new_tokens", "new tokens", "d", "right"),
        Column("draft", "guesses a pass", "d", "right"),
        Column("bytes", "MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("age_seconds", "age", _age, "right"),
        Column("program", "program", lambda digits: digits[:SHOWN_DIGITS]),
    )
    note = f"{len(rows)} in {folder}, {whole / 1e6:.1f} MB. Each is good for one answer."
    for _, _, info in found:
        note += f" {info.identity[:SHOWN_DIGITS]} cannot be used: {info.problem}" if info.problem else ""
    print_table(Table("Prepared answers", columns, rows, note))


def _age(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"
