"""What a server keeps of prepared answers: for each client its own, within limits, and never for two sessions at once."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hushlm.plan import bucket_length
from hushlm.private.bundles import BundleInfo, BundleStore, BundleStoreError, peers_of
from hushlm.private.engine import Party
from hushlm.private.program.description import ProgramDescription
from hushlm.private.server.admission import RefusedError
from hushlm.private.server.logs import log
from hushlm.private.server.metrics import ServerMetrics
from hushlm.private.session.messages import MOST_BUNDLES, BundleProblem, SessionRequest
from hushlm.private.session.prepared_work import bundle_bytes

__all__ = ["PrepareSettings", "PreparedShelf"]


@dataclass(frozen=True)
class PrepareSettings:
    """Whether a server prepares answers, and how many it keeps.

    Attributes:
        folder: where they are stored; None prepares none.
        client_answers, client_bytes: most that are kept for one client, by the name in its certificate.
        answers, bytes: most that are kept for all clients together.
        sessions: how many preparations may run at a time; each takes one of the server's workers.
    """

    folder: Path | None = None
    client_answers: int = 16
    client_bytes: int = 4_000_000_000
    answers: int = 256
    bytes: int = 32_000_000_000
    sessions: int = 1

    def __post_init__(self) -> None:
        if min(self.client_answers, self.client_bytes, self.answers, self.bytes, self.sessions) < 1:
            raise ValueError("A server that prepares answers needs room for at least one, and at least one preparation at a time.")
        if self.client_answers > MOST_BUNDLES:
            raise ValueError(f"A client may keep at most {MOST_BUNDLES} prepared answers, not {self.client_answers}.")


class PreparedShelf:
    """The prepared answers of one server.

    Args:
        settings: where they are, and how many there may be.
        description: of the served program; those of other programs stay where they are, and count.
        metrics: the server's counters.
    """

    def __init__(self, settings: PrepareSettings, description: ProgramDescription, metrics: ServerMetrics) -> None:
        self.settings, self._description, self._metrics = settings, description, metrics
        self._busy: set[tuple[str, str]] = set()
        self._preparing: set[str] = set()
        metrics.show_prepared(lambda: self._shown()[0], lambda: self._shown()[1])

    def admit(self, client: str, wanted: SessionRequest) -> None:
        """Look whether a session can have what it wants, and drop what the client no longer has.

        Raises:
            RefusedError: if this server prepares nothing, the session's prepared answer is gone or in use, or there is no room for more.
        """
        if wanted.kind == "ask" and wanted.bundle is None:
            return
        with _usable():
            self._admit(client, wanted)

    def _admit(self, client: str, wanted: SessionRequest) -> None:
        if self.settings.folder is None:
            raise RefusedError(
                "This server keeps no prepared answers: its operator may start it with --prepare-folder.",
                "prepared",
                BundleProblem.NONE_KEPT,
            )
        self._reconcile(client, wanted.held)
        if wanted.kind == "prepare":
            self.check_room(client, wanted)
            return
        held = {info.identity: info for info in self.held(client)}
        info = held.get(wanted.bundle or "")
        if info is None:
            raise RefusedError(
                "The server no longer has this prepared answer, so both sides have dropped it.", "prepared", BundleProblem.GONE
            )
        context = self._description.shape.context
        bucket = bucket_length(wanted.prompt_length, context)
        if bucket != info.prompt_bucket or wanted.new_tokens > info.new_tokens:
            raise RefusedError(
                f"This prepared answer is for prompts of {info.prompt_bucket} tokens (rounded up) and {info.new_tokens} new ones, "
                f"not for {bucket} and {wanted.new_tokens}: name another one.",
                "prepared",
                400,
            )
        if info.draft and (wanted.reveal.kind == "topk" or wanted.prompt_length + wanted.new_tokens + info.draft > context):
            raise RefusedError(
                f"This prepared answer guesses {info.draft} tokens a pass: it reveals tokens or all logits, and needs room for the guesses "
                f"in the context of {context}: name another one.",
                "prepared",
                400,
            )

    def begin(self, client: str, wanted: SessionRequest) -> None:
        """Keep what a session uses or makes from being dropped, and from other sessions, until `end`.

        Raises:
            RefusedError: if another session uses it already.
        """
        if (client, wanted.bundle) in self._busy:
            raise RefusedError("Another session is using this prepared answer.", "prepared", BundleProblem.BUSY)
        if wanted.bundle is not None:
            self._busy.add((client, wanted.bundle))
        if wanted.kind == "prepare":
            self._preparing.add(client)

    def end(self, client: str, wanted: SessionRequest) -> None:
        """The session is over."""
        if wanted.bundle is not None:
            self._busy.discard((client, wanted.bundle))
        if wanted.kind == "prepare":
            self._preparing.discard(client)

    def held(self, client: str) -> list[BundleInfo]:
        """Of the served program, for one client."""
        return [] if self.settings.folder is None else self._store(client).list(self._description.fingerprint)

    def both_hold(self, client: str, theirs: Sequence[str]) -> tuple[str, ...]:
        """Those of the client's that are here too.

        Raises:
            RefusedError: if that cannot be known.
        """
        with _usable():
            mine = {info.identity for info in self.held(client)}
        return tuple(name for name in theirs if name in mine)

    def check_room(self, client: str, wanted: SessionRequest) -> None:
        """Raises: RefusedError, if what is to be made would exceed a limit."""
        with _usable():
            self._check_room(client, wanted)

    def _check_room(self, client: str, wanted: SessionRequest) -> None:
        lengths = (wanted.prompt_length, wanted.new_tokens)
        settings, size = self.settings, bundle_bytes(self._description, *lengths, client=False, draft=wanted.draft)
        own, own_bytes = self._of(client)
        count, whole_bytes = self._total()
        for who, here, most in (("for a client", own, settings.client_answers), ("in all", count, settings.answers)):
            if here + wanted.answers > most:
                raise _full(f"{most} prepared answers {who}, and {here} are there", most - here)
        for who, here, most in (("for a client", own_bytes, settings.client_bytes), ("in all", whole_bytes, settings.bytes)):
            if here + wanted.answers * size > most:
                sizes = f"{most / 1e6:.0f} MB of prepared answers {who}, {here / 1e6:.0f} MB are there, and one takes {size / 1e6:.1f} MB"
                raise _full(sizes, (most - here) // size)

    def _reconcile(self, client: str, held: Sequence[str] | None) -> None:
        """Drop what the client does not have. Not while some are being made: those are at the server before they are at the client."""
        if held is None or client in self._preparing:
            return
        busy = {name for who, name in self._busy if who == client}
        dropped = self._store(client).keep_only({*held, *busy}, self._description.fingerprint)
        self._metrics.prepared.labels("dropped").inc(len(dropped))

    def _store(self, client: str) -> BundleStore:
        assert self.settings.folder is not None
        return BundleStore(self.settings.folder, Party.SERVER, client)

    def _of(self, client: str) -> tuple[int, int]:
        """How many a client has, of any program, and their bytes."""
        kept = self._store(client).list()
        return len(kept), sum(info.size_bytes for info in kept)

    def _shown(self) -> tuple[float, float]:
        """For the metrics, which stay readable whatever has become of the folder."""
        try:
            return self._total()
        except BundleStoreError:
            return math.nan, math.nan

    def _total(self) -> tuple[int, int]:
        if self.settings.folder is None:
            return 0, 0
        each = [self._of(client) for client in peers_of(self.settings.folder, Party.SERVER)]
        return sum(count for count, _ in each), sum(size for _, size in each)


@contextlib.contextmanager
def _usable() -> Iterator[None]:
    """Refuse where the folder cannot be read or written; the log says why."""
    try:
        yield
    except BundleStoreError as error:
        log.error("prepared answers cannot be kept", error=str(error))
        raise RefusedError("This server cannot use its folder of prepared answers now: its log says why.", "prepared", 500) from error


def _full(sizes: str, room: int) -> RefusedError:
    advice = f"ask for at most {room} more" if room > 0 else "use some first, or drop them with `hushlm prepared drop`"
    return RefusedError(f"This server keeps {sizes}: {advice}.", "prepared", 400)
