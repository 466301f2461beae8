"""A client's prepared answers with one server: which one a question takes, and how the two sides' stores are kept the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hushlm.plan import bucket_length
from hushlm.private.bundles import BundleInfo, BundleStore
from hushlm.private.engine import Party
from hushlm.private.program.description import ProgramDescription
from hushlm.private.session.messages import MOST_BUNDLES

__all__ = ["ClientShelf", "prepared_folder"]


def prepared_folder(keys: Path, name: str) -> Path:
    """Where a client's prepared answers lie unless it says otherwise: beside the keys that the server knows it by."""
    return keys / "prepared" / name


class ClientShelf:
    """The prepared answers of one client, one server and one program. Sessions of this process never share one.

    Args:
        folder: where they are stored, for all servers.
        server: HOST:PORT of the server.
        description: of the program.
    """

    def __init__(self, folder: Path, server: str, description: ProgramDescription) -> None:
        self.folder, self.server, self._description = folder.absolute(), server, description
        self._store = BundleStore(self.folder, Party.CLIENT, server)
        self._taken: set[str] = set()

    def held(self) -> list[BundleInfo]:
        """All that this side has."""
        return self._store.list(self._description.fingerprint)

    def unusable(self) -> int:
        """How many files there are that cannot be used; `hushlm prepared list` says why."""
        return sum(bool(info.problem) for info in self._store.list())

    def fitting(self, prompt_length: int, new_tokens: int, greedy: bool = True) -> list[BundleInfo]:
        """Those that are good for a question of these lengths, the closest first, and of equal ones those with the most guesses.

        Args:
            greedy: whether the likeliest token is always taken, and neither drawn nor told as top-k: guesses are checked against that.
        """
        context = self._description.shape.context
        bucket = bucket_length(prompt_length, context)
        fits = [
            info
            for info in self.held()
            if info.prompt_bucket == bucket
            and info.new_tokens >= new_tokens
            and prompt_length + new_tokens + info.draft <= context
            and (greedy or not info.draft)
        ]
        return sorted(fits, key=lambda info: (info.new_tokens, -info.draft, info.created_at))

    def take(self, prompt_length: int, new_tokens: int, greedy: bool = True) -> BundleInfo | None:
        """One of `fitting`, if there is one; no other session of this process gets it until it is given back."""
        found = next((info for info in self.fitting(prompt_length, new_tokens, greedy) if info.identity not in self._taken), None)
        if found is not None:
            self._taken.add(found.identity)
        return found

    def give_back(self, info: BundleInfo) -> None:
        """The session that took it is over, whether it has used it or not."""
        self._taken.discard(info.identity)

    def drop(self, info: BundleInfo) -> None:
        """Forget one that the server does not have."""
        self._store.drop(info.identity)

    def names(self) -> tuple[str, ...] | None:
        """Identities of all, for the server; None where they are too many for a message."""
        held = self.held()
        return tuple(info.identity for info in held) if len(held) <= MOST_BUNDLES else None

    def reconcile(self, named: Sequence[str] | None, theirs: Sequence[str] | None) -> None:
        """Drop those that were named to the server and that it does not have."""
        if named is None or theirs is None:
            return
        for name in {*named} - {*theirs} - self._taken:
            self._store.drop(name)
