"""A party's stored halves of prepared answers with one peer."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, unquote

from filelock import FileLock, Timeout

from hushlm.files.atomic import sync_folder
from hushlm.private.bundles.bundle_errors import BundleError, BundleStoreError, told_in_a_sentence
from hushlm.private.bundles.bundle_file import (
    IDENTITY_PATTERN,
    BundleInfo,
    StoredInfo,
    bundle_content,
    further_attributes,
    read_bundle,
    read_info,
)
from hushlm.private.bundles.private_files import check_folder, erase, make_folder, write_all, write_private
from hushlm.private.bundles.used_ledger import UsedLedger
from hushlm.private.engine import Party
from hushlm.private.prepared.material import Material, MaterialError

__all__ = ["BundleStore", "peers_of"]

SUFFIX = ".bundle"
LOCK_SECONDS = 60
"""How long to wait for another process, which may be writing a large file."""

BundleInfos = list[BundleInfo]


def peers_of(folder: Path, party: Party) -> list[str]:
    """Names of the peers that a party has a store with, below the same folder that `BundleStore` is given."""
    base = _party_folder(folder, party)
    with told_in_a_sentence(base):
        return sorted(unquote(path.name) for path in base.iterdir() if path.is_dir()) if base.is_dir() else []


class BundleStore:
    """One party's prepared answers with one peer. Any number of processes may use one store.

    Files lie in FOLDER/PARTY/PEER, which is made for its owner alone (0700, files 0600) when something is first stored:
    `IDENTITY.bundle` (`hushlm.private.bundles.bundle_file`) and `used`, the ledger. A process that is killed at any moment leaves every
    bundle whole and unused, or used.

    Args:
        folder: of all stores.
        party: whose halves they are.
        peer: with whom: the name in the client's certificate at the server, HOST:PORT of the server at the client.
        limit_bytes: most that is stored with this peer; None sets no limit.

    Attributes:
        folder: of this store.

    Every method raises `BundleStoreError`, one sentence, if the folder is a link, somebody else's or open to others, if the operating
    system refuses (its own reason is in the sentence), or if another process holds the store for more than `LOCK_SECONDS`.
    """

    def __init__(self, folder: Path, party: Party, peer: str, limit_bytes: int | None = None) -> None:
        if not peer:
            raise ValueError("A store of prepared answers needs the name of the peer that they are used with.")
        # A name cannot lead out of the folder: "/" is written %2F, and a leading "." %2E.
        name = re.sub(r"^\.", "%2E", quote(peer, safe="[]"))
        self.folder = _party_folder(folder, party) / name
        self._party, self._peer, self._limit_bytes = party.name.lower(), peer, limit_bytes
        self._ledger = UsedLedger(self.folder)

    def add(self, material: Material, fingerprint: str) -> BundleInfo:
        """Store material, on disk when this returns. It moves: the words in memory are overwritten, and only `burn` gives them back.

        Args:
            material: of which nothing has been used.
            fingerprint: of the program that it was made for.

        Raises:
            BundleError: if some of it was used, or this identity was stored or used before.
            BundleStoreError: if it does not fit the limit, and as said above.
        """
        identity = material.identity.hex()
        with self._alone(make=True) as used:
            path, temporary = self._path(identity), self.folder / f".{identity}.tmp"
            if identity in used or path.exists():
                raise BundleError(f"The prepared answer {identity} was stored before: prepare another one.")
            try:
                items = material.unused_items()
            except MaterialError as error:
                raise BundleError(str(error)) from None
            handle = write_private(temporary)
            try:
                try:
                    info = StoredInfo(
                        identity=identity,
                        party="client" if self._party == "client" else "server",
                        peer=self._peer,
                        fingerprint=fingerprint,
                        prompt_bucket=material.prompt_bucket,
                        new_tokens=material.new_tokens,
                        created_at=datetime.datetime.now(datetime.UTC),
                        inode=os.fstat(handle).st_ino,
                        more=further_attributes(material),
                    )
                    content = bundle_content(info, items, material.seed)
                    self._check_room(len(content))
                    material.drop()
                    write_all(handle, content)
                finally:
                    os.close(handle)
                os.replace(temporary, path)  # noqa: PTH105 - the name of the system call is the point
                sync_folder(self.folder)
            except BaseException:
                for remains in (temporary, path):
                    with suppress(OSError):
                        erase(remains)
                raise
        return _shown(info, len(content))

    def list(self, fingerprint: str | None = None) -> BundleInfos:
        """What is stored, the oldest first; nothing is changed.

        Args:
            fingerprint: only what is good for this program and has no problem. None gives everything, what cannot be used with its
                `BundleInfo.problem`. Whether words are damaged is only found out by `burn`, which reads them.
        """
        with told_in_a_sentence(self.folder):
            # The files before the ledger: one that is used meanwhile is then in the ledger.
            seen = [self._look(path) for path in self._files()]
            found = [info for info in seen if info is not None]
            trouble, used = "", set[str]()
            if found:
                try:
                    used = self._ledger.read()
                except BundleStoreError as error:
                    trouble = str(error)
        marked = []
        for info in found:
            problem = trouble or (_used_before(info.identity) if info.identity in used else info.problem)
            if fingerprint is None or (not problem and info.fingerprint == fingerprint):
                marked.append(_shown(info, info.size_bytes, problem))
        return sorted(marked, key=lambda info: (info.created_at, info.identity))

    def find(self, fingerprint: str, prompt_bucket: int, new_tokens: int) -> BundleInfo | None:
        """The smallest one for prompts of this bucket and at least so many new tokens, the oldest of several; None if there is none."""
        fits = [info for info in self.list(fingerprint) if info.prompt_bucket == prompt_bucket and info.new_tokens >= new_tokens]
        return min(fits, key=lambda info: info.new_tokens, default=None)

    def burn(self, identity: str) -> Material:
        """The only way to the words: read and check them, record the identity as used on disk, overwrite and remove the file.

        Whatever goes wrong after the record, the words are given to nobody, ever.

        Args:
            identity: in hexadecimal.

        Returns: the material, in memory, once all of this is on disk.

        Raises:
            BundleError: if it is not here, was used before, is damaged or a copy, belongs to the other party or another peer, or its file
                is somebody else's or open to others. Nothing is recorded then.
            BundleStoreError: as said above. It may have been recorded as used, then.
        """
        with self._alone() as used:
            path = self._path(identity)
            if identity in used:
                raise BundleError(_used_before(identity))
            if not os.path.lexists(path):
                raise BundleError(f"There is no prepared answer {identity} in {self.folder}: prepare again.")
            info, material = read_bundle(path)
            try:
                self._check_owner(path, info)
                self._ledger.record(identity)
                erase(path)
                sync_folder(self.folder)
            except BaseException:
                material.drop()
                raise
        return material

    def drop(self, identity: str) -> None:
        """Record an identity as used, and overwrite and remove its file if there is one.

        Raises:
            BundleError: if it is not an identity.
        """
        path = self._path(identity)
        if self._is_there():
            with self._alone() as used:
                self._drop(path, identity, used)

    def keep_only(self, identities: Collection[str], fingerprint: str) -> BundleInfos:
        """Drop what the other side does not have.

        Args:
            identities: what it has, in hexadecimal.
            fingerprint: the program that this is about; what is stored for others stays.

        Returns: what was dropped.
        """
        if not self._is_there():
            return []
        with self._alone() as used:
            dropped = [info for info in self.list() if info.fingerprint == fingerprint and info.identity not in identities]
            for info in dropped:
                self._drop(self._path(info.identity), info.identity, used)
        return dropped

    def size_bytes(self) -> int:
        """Bytes of all bundles, those that cannot be used included."""
        return sum(info.size_bytes for info in self.list())

    @contextmanager
    def _alone(self, *, make: bool = False) -> Iterator[set[str]]:
        """Hold the store alone, and finish what a killed process began. Yields: the identities in the ledger."""
        with told_in_a_sentence(self.folder):
            if make:
                make_folder(self.folder)
            elif not self._is_there():
                raise BundleError(f"There is no prepared answer in {self.folder}: prepare one first.")
            self._check_folders()
            try:
                lock = FileLock(self.folder / ".lock", timeout=LOCK_SECONDS, mode=0o600)
                lock.acquire()
            except Timeout:
                raise BundleStoreError(f"Another process has held {self.folder} for {LOCK_SECONDS} s: wait until it has ended.") from None
            try:
                # A ledger that is missing beside bundles was taken away, and is not begun anew.
                if make and not self._files():
                    self._ledger.create()
                    sync_folder(self.folder)
                used = self._ledger.read()
                self._sweep(used)
                yield used
            finally:
                lock.release()

    def _sweep(self, used: set[str]) -> None:
        """Remove what a killed process left: files half written, and files of what was used."""
        remains = [*self.folder.glob(".*.tmp"), *(path for path in self._files() if path.stem in used)]
        for path in remains:
            erase(path)
        if remains:
            sync_folder(self.folder)

    def _drop(self, path: Path, identity: str, used: set[str]) -> None:
        if identity not in used:
            self._ledger.record(identity)
        if os.path.lexists(path):
            erase(path)
            sync_folder(self.folder)

    def _is_there(self) -> bool:
        with told_in_a_sentence(self.folder):
            try:
                self.folder.lstat()
            except FileNotFoundError:
                return False
            return True

    def _check_folders(self) -> None:
        check_folder(self.folder.parent)
        check_folder(self.folder)

    def _check_room(self, size_bytes: int) -> None:
        here = self.size_bytes()
        if self._limit_bytes is not None and here + size_bytes > self._limit_bytes:
            raise BundleStoreError(
                f"Prepared answers with {self._peer} may take {self._limit_bytes / 1e6:.1f} MB; {here / 1e6:.1f} MB are stored and "
                f"this one takes {size_bytes / 1e6:.1f} MB: use or drop some first."
            )

    def _check_owner(self, path: Path, info: StoredInfo) -> None:
        if (info.party, info.peer, info.identity) != (self._party, self._peer, path.stem):
            raise BundleError(f"{path} is the {info.party}'s half of {info.identity} with {info.peer}, so it is not used here: remove it.")

    def _files(self) -> tuple[Path, ...]:
        if not self._is_there():
            return ()
        self._check_folders()
        return tuple(sorted(path for path in self.folder.glob(f"*{SUFFIX}") if re.fullmatch(IDENTITY_PATTERN, path.stem)))

    def _look(self, path: Path) -> BundleInfo | None:
        """What a listing says of a file; None if another process has just removed it."""
        try:
            try:
                info, size_bytes = read_info(path)
                self._check_owner(path, info)
                return _shown(info, size_bytes)
            except BundleError as error:
                found = path.lstat()
                created_at = datetime.datetime.fromtimestamp(found.st_mtime, datetime.UTC).isoformat()
                return BundleInfo(path.stem, "", 0, 0, found.st_size, created_at, str(error))
        except FileNotFoundError:
            return None

    def _path(self, identity: str) -> Path:
        if not re.fullmatch(IDENTITY_PATTERN, identity):
            raise BundleError(f"{identity!r} is not the identity of a prepared answer: it has 32 hexadecimal digits.")
        return self.folder / f"{identity}{SUFFIX}"


def _party_folder(folder: Path, party: Party) -> Path:
    return Path(os.path.realpath(folder)) / party.name.lower()


def _used_before(identity: str) -> str:
    return f"The prepared answer {identity} was used before, and is good for one use: prepare again."


def _shown(info: StoredInfo | BundleInfo, size_bytes: int, problem: str = "") -> BundleInfo:
    created_at = info.created_at if isinstance(info.created_at, str) else info.created_at.isoformat()
    lengths = (info.prompt_bucket, info.new_tokens)
    return BundleInfo(info.identity, info.fingerprint, *lengths, size_bytes, created_at, problem, info.draft)
