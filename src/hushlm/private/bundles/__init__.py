"""STAND-IN, not to be committed."""

from __future__ import annotations

import datetime
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from hushlm.private.engine import Party
from hushlm.private.prepared.material import Material


@dataclass(frozen=True)
class BundleInfo:
    identity: str
    fingerprint: str
    prompt_bucket: int
    new_tokens: int
    size_bytes: int
    created_at: str


class BundleStore:
    def __init__(self, folder: Path, party: Party, peer: str) -> None:
        self.folder = Path(folder) / party.name.lower() / peer.replace(":", "_").replace("/", "_")

    def add(self, material: Material, fingerprint: str) -> BundleInfo:
        self.folder.mkdir(parents=True, exist_ok=True)
        raw = pickle.dumps(material)
        info = BundleInfo(
            material.identity.hex(),
            fingerprint,
            material.prompt_bucket,
            material.new_tokens,
            len(raw),
            datetime.datetime.now(datetime.UTC).isoformat(),
        )
        (self.folder / f"{info.identity}.bin").write_bytes(raw)
        (self.folder / f"{info.identity}.info").write_bytes(pickle.dumps(info))
        return info

    def list(self, fingerprint: str | None = None) -> list[BundleInfo]:
        if not self.folder.is_dir():
            return []
        found = [pickle.loads(p.read_bytes()) for p in sorted(self.folder.glob("*.info"))]
        return [i for i in found if fingerprint in (None, i.fingerprint)]

    def burn(self, identity: str) -> Material:
        try:
            os.unlink(self.folder / f"{identity}.info")
        except FileNotFoundError:
            raise ValueError("gone")
        m = pickle.loads((self.folder / f"{identity}.bin").read_bytes())
        os.unlink(self.folder / f"{identity}.bin")
        return m

    def drop(self, identity: str) -> None:
        for s in ("info", "bin"):
            (self.folder / f"{identity}.{s}").unlink(missing_ok=True)

    def keep_only(self, identities, fingerprint) -> list[BundleInfo]:
        out = []
        for i in self.list(fingerprint):
            if i.identity not in identities:
                self.drop(i.identity)
                out.append(i)
        return out


def peers_of(folder: Path, party: Party) -> list[str]:
    base = Path(folder) / party.name.lower()
    return sorted(p.name for p in base.iterdir()) if base.is_dir() else []
