"""One party's engine: its variables, the programs that it runs, and the values that are opened to one party.

One process of the operating system is one party. The owner of an input encodes it as private, and the other party installs a placeholder
of the same shape. Installing an input therefore sends nothing, and no third party is needed to deal out shares.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hushlm.private.engine.channel import Channel
from hushlm.private.engine.compiler import Executable
from hushlm.private.engine.engine_settings import EngineSettings, Party
from hushlm.private.engine.mpc_library import load_engine
from hushlm.private.engine.nudge import NUDGE
from hushlm.private.engine.program_store import ProgramStore
from hushlm.private.engine.traffic import Traffic, read_traffic

__all__ = ["Engine"]


class Engine:
    """One party's runtime.

    Args:
        party: which party this process is. With `settings.simulate` there is no peer, and this only matters to `reveal`.
        settings: the engine's settings, which are the same at both parties.
        channel: the link to the peer, or None with `settings.simulate`.
        programs: where compiled programs are kept from session to session; None compiles anew.
    """

    def __init__(self, party: Party, settings: EngineSettings, channel: Channel | None, programs: ProgramStore | None = None) -> None:
        spu, libspu = load_engine()
        assert (channel is None) == settings.simulate
        self._programs = programs
        self.party, self.settings, self.channel = party, settings, channel
        config = libspu.RuntimeConfig()
        if not config.ParseFromJsonString(settings.to_json()):
            raise RuntimeError(f"The engine does not accept these settings: {settings.to_json()}")
        self._log = self._capture_log(libspu)
        if channel is None:
            description = libspu.link.Desc()
            description.add_party("only", "only")
            context, parties = libspu.link.create_mem(description, 0), 1
        else:
            context, parties = channel.context, 2
        self._io = spu.Io(parties, config)
        self._runtime = spu.Runtime(context, config)
        self._libspu = libspu

    @staticmethod
    def _capture_log(libspu: Any) -> Path:
        """Send the engine's log, which holds its byte counters, to a file of this process instead of the console."""
        options = libspu.logging.LogOptions()
        options.enable_console_logger = False
        handle, path = tempfile.mkstemp(prefix="hushlm-engine-", suffix=".log")
        os.close(handle)
        options.system_log_path = path
        libspu.logging.setup_logging(options)
        return Path(path)

    def put(self, name: str, owner: Party, shape: tuple[int, ...], value: np.ndarray | None) -> None:
        """Install a private input. Nothing is sent.

        Args:
            name: the name of the variable.
            owner: the party that knows the value.
            shape: the shape of the value, which both parties know.
            value: a float array of that shape at its owner, and None at the other party.
        """
        owned = self.settings.simulate or owner == self.party
        assert owned == (value is not None), f"{name}: only its owner has a value"
        array = np.ascontiguousarray(value, dtype=np.float32) if value is not None else np.zeros(shape, np.float32)
        assert array.shape == tuple(shape), (name, array.shape, shape)
        rank = -1 if self.settings.simulate else int(owner)
        shares = self._io.make_shares(array, self._libspu.Visibility.VIS_SECRET, rank)
        self._runtime.set_var(name, shares[0 if self.settings.simulate else int(self.party)])

    def put_public(self, name: str, value: np.ndarray) -> None:
        """Install a value that both parties know, such as a mask or a position."""
        shares = self._io.make_shares(np.ascontiguousarray(value, dtype=np.float32), self._libspu.Visibility.VIS_PUBLIC)
        self._runtime.set_var(name, shares[0 if self.settings.simulate else int(self.party)])

    def delete(self, name: str) -> None:
        """Forget a variable."""
        self._runtime.del_var(name)

    def share(self, name: str) -> Any:
        """This party's share of a variable, in the engine's own form (`hushlm.private.engine.shares` reads it)."""
        return self._runtime.get_var(name)

    def install(self, name: str, share: Any) -> None:
        """Make a variable of this party's share; the other party installs its own. Nothing is sent."""
        self._runtime.set_var(name, share)

    def compiled(self, key: Hashable, compile_now: Callable[[], Executable]) -> Executable:
        """The program of a key, kept from an earlier session or compiled now.

        Args:
            key: see `ProgramStore.compiled`.
        """
        if self._programs is None:
            return compile_now()
        return self._programs.compiled(key, compile_now)

    def run(self, executable: Executable) -> Traffic:
        """Run a program on the variables of its input names. Its results become variables of its output names."""
        return self.execute(self._runtime, executable)

    def execute(self, runtime: Any, executable: Executable) -> Traffic:
        """Run a program on a runtime of this process, this engine's or another, and read from the log what moved."""
        offset, nudges = self._log.stat().st_size, self._nudges()
        start = time.perf_counter()
        runtime.run(executable.native)
        seconds = time.perf_counter() - start
        if self.settings.simulate:
            return Traffic(seconds=seconds)
        nudges = self._nudges() - nudges
        with self._log.open() as log:
            log.seek(offset)
            moved = read_traffic(log.read(), seconds)
        # One at the very edge of a program may be counted here and not there.
        return replace(
            moved,
            sent_bytes=max(0, moved.sent_bytes - nudges * len(NUDGE)),
            sent_messages=max(0, moved.sent_messages - nudges),
        )

    def _nudges(self) -> int:
        """How many messages were sent that belong to no program."""
        return 0 if self.channel is None or self.channel.nudge is None else self.channel.nudge.messages

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        """Open a variable to one party, for which only the other party's share is sent.

        Returns:
            The array at party `to` and None at the other party, and what was sent.
        """
        share = self._runtime.get_var(name)
        if self.settings.simulate:
            return self._io.reconstruct([share]), Traffic()
        assert self.channel is not None
        context = self.channel.context
        if self.party != to:
            parts = [share.meta, *share.share_chunks]
            messages = [json.dumps([len(part) for part in parts]).encode(), *parts]
            for message in messages:
                context.send(int(to), message)
            return None, Traffic(sent_bytes=sum(map(len, messages)), sent_messages=len(messages))
        header = context.recv(int(to.other))
        parts = [context.recv(int(to.other)) for _ in json.loads(header)]
        received = self._libspu.Share()
        received.meta, received.share_chunks = parts[0], parts[1:]
        both = [share, received] if to == Party.CLIENT else [received, share]
        moved = Traffic(received_bytes=len(header) + sum(map(len, parts)), received_messages=1 + len(parts))
        return self._io.reconstruct(both), moved
