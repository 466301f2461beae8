"""Loaded by every process of a test that puts this folder on PYTHONPATH; changes session workers alone, as environment variables say.

HUSH_TEST_BURNS     file that takes a line, role and identity, for each prepared answer that was burnt
HUSH_TEST_KILL_AT   ROLE:MOMENT: worker and parent are killed there. MOMENT is a word about to be sent (held, burnt, stored), or "taken":
                    the third item of material is about to be used
HUSH_TEST_BATCH     most answers that are prepared at once
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

if "hushlm.private.session.worker" in sys.orig_argv and any(name.startswith("HUSH_TEST_") for name in os.environ):
    from hushlm.private.bundles import BundleStore
    from hushlm.private.prepared.material import Material
    from hushlm.private.session import prepared_work

    role, _, moment = os.environ.get("HUSH_TEST_KILL_AT", "").partition(":")
    here: list[str] = []
    taken: list[Any] = []

    def end(at: str) -> None:
        if here[:1] == [role] and at == moment:
            os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)

    make_link, tell, take, burn = prepared_work._Link.__init__, prepared_work._Link.tell, Material.take, BundleStore.burn

    def linked(self: Any, engine: Any) -> None:
        here[:] = [engine.party.name.lower()]
        make_link(self, engine)

    def telling(self: Any, word: bytes) -> None:
        end(word.decode(errors="replace"))
        tell(self, word)

    def taking(self: Any, need: Any) -> Any:
        taken.append(need)
        if len(taken) == 3:
            end("taken")
        return take(self, need)

    def burning(self: Any, identity: str) -> Any:
        material = burn(self, identity)
        if path := os.environ.get("HUSH_TEST_BURNS"):
            with Path(path).open("a") as file:
                file.write(f"{here[0]} {identity}\n")
        return material

    changes: list[tuple[Any, str, Any]] = [
        (prepared_work._Link, "__init__", linked),
        (prepared_work._Link, "tell", telling),
        (Material, "take", taking),
        (BundleStore, "burn", burning),
    ]
    for kind, name, method in changes:
        setattr(kind, name, method)
    prepared_work.BATCH_ANSWERS = int(os.environ.get("HUSH_TEST_BATCH", prepared_work.BATCH_ANSWERS))
