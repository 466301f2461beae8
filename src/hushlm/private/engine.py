"""The two-party engine: the only file that imports the MPC library (SecretFlow-SPU, Cheetah protocol).

One OS process is one party. An input is encoded as *private* by its owner; the other party installs a placeholder of the
same shape, so nothing is sent at infeed and no dealer exists. Programs are compiled by both parties from shapes alone.
"""

from __future__ import annotations

import enum
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hushlm.private.traffic import Traffic, read_traffic

__all__ = [
    "Channel",
    "Engine",
    "EngineSettings",
    "Executable",
    "Party",
    "TlsFiles",
    "compile_program",
    "engine_version",
]


class Party(enum.IntEnum):
    """Rank of a party on the engine's link."""

    CLIENT = 0
    SERVER = 1

    @property
    def other(self) -> Party:
        return Party(1 - self)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one party for mutual TLS: its certificate, its private key, and the CA that signs both parties."""

    certificate: Path
    private_key: Path
    authority: Path


@dataclass(frozen=True)
class EngineSettings:
    """What both parties must agree on for shares to mean the same (compared in the handshake).

    Attributes:
        exponential_squarings: n of the built-in exponential (1 + z/2^n)^(2^n).
        fraction_bits: of fixed-point numbers in a ring of 64 bits.
        pack_products: pack matrix products into fewer ciphertexts: a twentieth of the bytes for about 1.6 times the server's CPU time.
        one_bit_error: allow an error of one unit in the last place after a product, for cheaper truncation.
        threads: of each party's engine; they decide how many stocks of oblivious transfers are set up.
        simulate: run the same programs in the clear, in one process, with the same fixed-point arithmetic.
    """

    exponential_squarings: int = 6
    fraction_bits: int = 18
    pack_products: bool = True
    one_bit_error: bool = True
    threads: int = 2
    simulate: bool = False

    def to_json(self) -> str:
        protocol: dict[str, Any] = {"protocol": "REF2K" if self.simulate else "CHEETAH"}
        if not self.simulate:
            protocol |= {
                "max_concurrency": self.threads,
                # Without this flag the engine ignores owners and one process would hold both shares.
                "experimental_enable_colocated_optimization": True,
                "enable_hal_profile": True,
                "enable_pphlo_profile": True,
                "cheetah_2pc_config": {
                    "ot_kind": "EMP_Ferret",
                    "enable_mul_lsb_error": self.one_bit_error,
                    "disable_matmul_pack": not self.pack_products,
                },
            }
        return json.dumps(
            protocol | {"field": "FM64", "fxp_fraction_bits": self.fraction_bits, "fxp_exp_iters": self.exponential_squarings}
        )


def _engine() -> tuple[Any, Any]:
    """The engine's package and its native library.

    Raises:
        ValueError: in one sentence, where the engine is not installed.
    """
    try:
        import spu
        from spu import libspu
    except ImportError as error:
        raise ValueError(f"Private inference needs the two-party engine: pip install 'hushlm[private]' ({error}).") from error
    return spu, libspu


def engine_version() -> str:
    """Name, version and protocol, e.g. "Cheetah (SPU 0.9.5)"."""
    from importlib.metadata import version

    _engine()
    return f"Cheetah (SPU {version('spu')})"


@dataclass(frozen=True)
class Executable:
    """A compiled program; the same one runs on other variables through `renamed`."""

    native: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def lines(self) -> int:
        """Of its text, which the engine reads anew at every run."""
        return len(self.native.code.splitlines())

    def renamed(self, inputs: Sequence[str], outputs: Sequence[str]) -> Executable:
        """The same code on other variables (weights of another layer, say): nothing is compiled again."""
        assert (len(inputs), len(outputs)) == (len(self.inputs), len(self.outputs))
        _, libspu = _engine()
        native = libspu.Executable(name=self.native.name, input_names=list(inputs), output_names=list(outputs), code=self.native.code)
        return Executable(native, tuple(inputs), tuple(outputs))


def compile_program(
    function: Callable[..., Any], shapes: Sequence[tuple[int, ...]], outputs: int, name: str, public: Collection[int] = ()
) -> Executable:
    """Compile a JAX function of float32 arrays.

    Args:
        function: takes one array per shape, returns one array or a tuple of `outputs` arrays.
        shapes: of the arguments; every party compiles from these alone.
        outputs: how many arrays it returns.
        name: for profiles.
        public: positions of arguments known to both parties; the others are secret.
    """
    _, libspu = _engine()
    import jax
    from spu.utils import frontend

    def named(*arguments: Any) -> Any:
        return function(*arguments)

    named.__name__ = name
    inputs = [f"in{i}" for i in range(len(shapes))]
    outs = [f"out{i}" for i in range(outputs)]
    native, _ = frontend.compile(
        frontend.Kind.JAX,
        named,
        [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes],
        {},
        inputs,
        [libspu.Visibility.VIS_PUBLIC if i in public else libspu.Visibility.VIS_SECRET for i in range(len(shapes))],
        lambda flat: outs,
    )
    return Executable(native, tuple(inputs), tuple(outs))


class Channel:
    """The engine's link between the two parties, over TCP, with mutual TLS unless `tls` is None.

    Args:
        party: this process's rank.
        addresses: HOST:PORT of the client's and of the server's listener.
        tls: this party's PEM files.
        timeout_seconds: for a message from the peer; a killed or stalled peer is noticed after this long.
        connect_seconds: how long to wait for the peer's listener.

    Raises:
        ConnectionError: if the peer does not answer, or is not who it should be.
    """

    def __init__(
        self,
        party: Party,
        addresses: tuple[str, str],
        tls: TlsFiles | None,
        timeout_seconds: float = 600.0,
        connect_seconds: float = 30.0,
    ) -> None:
        _, libspu = _engine()
        description = libspu.link.Desc()
        description.recv_timeout_ms = int(timeout_seconds * 1000)
        description.http_timeout_ms = int(timeout_seconds * 1000)
        description.http_max_payload_size = 32 * 1024 * 1024
        # TCP repeats what is lost; a message that fails all the same fails again, and three more attempts make a stalled peer cost the
        # timeout four times.
        description.retry_opts.max_retry = 0
        description.connect_retry_interval_ms = 100
        description.connect_retry_times = max(1, int(connect_seconds * 10))
        for rank, address in zip(Party, addresses, strict=True):
            description.add_party(f"party{int(rank)}", address)
        if tls is not None:
            description.enable_ssl = True
            for options in (description.client_ssl_opts, description.server_ssl_opts):
                options.cert.certificate_path = str(tls.certificate)
                options.cert.private_key_path = str(tls.private_key)
                options.verify.ca_file_path = str(tls.authority)
                options.verify.verify_depth = 1
        try:
            self.context = libspu.link.create_brpc(description, int(party))
        except RuntimeError as error:
            raise ConnectionError(
                f"The engine's link to {addresses[party.other]} could not be opened within {connect_seconds:.0f} s: "
                "check that the peer runs, that the port is free, and that both certificates come from the same authority."
            ) from error

    def close(self) -> None:
        """Wait for outstanding messages, then close the link."""
        self.context.stop_link()


class Engine:
    """One party's runtime: variables, executions, and opening a value to one party.

    Args:
        party: this process's rank; with `settings.simulate` there is no peer and the rank only matters to `reveal`.
        settings: the same at both parties.
        channel: the link; None only with `settings.simulate`.
    """

    def __init__(self, party: Party, settings: EngineSettings, channel: Channel | None) -> None:
        spu, libspu = _engine()
        assert (channel is None) == settings.simulate
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
        """Send the engine's log, where its byte counters are, to a file of this process instead of the console."""
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
            name: variable.
            owner: who knows the value.
            shape: known to both.
            value: float array of that shape at its owner, None at the other party.
        """
        owned = self.settings.simulate or owner == self.party
        assert owned == (value is not None), f"{name}: only its owner has a value"
        array = np.ascontiguousarray(value, dtype=np.float32) if value is not None else np.zeros(shape, np.float32)
        assert array.shape == tuple(shape), (name, array.shape, shape)
        rank = -1 if self.settings.simulate else int(owner)
        shares = self._io.make_shares(array, self._libspu.Visibility.VIS_SECRET, rank)
        self._runtime.set_var(name, shares[0 if self.settings.simulate else int(self.party)])

    def put_public(self, name: str, value: np.ndarray) -> None:
        """Install a value that both parties know (a mask, a position)."""
        shares = self._io.make_shares(np.ascontiguousarray(value, dtype=np.float32), self._libspu.Visibility.VIS_PUBLIC)
        self._runtime.set_var(name, shares[0 if self.settings.simulate else int(self.party)])

    def delete(self, name: str) -> None:
        """Forget a variable."""
        self._runtime.del_var(name)

    def run(self, executable: Executable) -> Traffic:
        """Execute on variables present under the executable's input names; the results become variables."""
        offset = self._log.stat().st_size
        start = time.perf_counter()
        self._runtime.run(executable.native)
        seconds = time.perf_counter() - start
        if self.settings.simulate:
            return Traffic(seconds=seconds)
        with self._log.open() as log:
            log.seek(offset)
            return read_traffic(log.read(), seconds)

    def reveal(self, name: str, to: Party) -> tuple[np.ndarray | None, Traffic]:
        """Open a variable to one party: only the other party's share moves.

        Returns:
            The array at `to`, None at the other party; and what moved.
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
