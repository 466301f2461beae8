"""One party of one session in a process of its own: `python -m hushlm.private.session.worker`, orders on stdin, events on stdout.

Why a process: the engine's native link answers the death of its peer with an exception, with exit code 255 or with SIGSEGV,
depending on where it stood (docs/threat-model.md, "Faults"). Here that ends one session and nothing else. Both parties are run this way.

Orders are two lines of JSON, `Order` and `PeerOrder`; secrets travel on this pipe alone, never on the command line or in the
environment. When the pipe is closed, which the kernel does when the parent dies, the process ends itself.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from hushlm.cost.network import Network
from hushlm.cost.prepared.session import answer_plans, answer_threads, multiplies_by_engine
from hushlm.plan import Plan, Step
from hushlm.private.engine import Channel, Engine, EngineSettings, Party, ProgramStore, load_engine
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import ProgramDescription, load_description, load_server_weights
from hushlm.private.program.drafts import Guess
from hushlm.private.program.generate import PrivateGenerator
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.process import FailureKind, Order, PeerOrder, WorkerEvent, WorkerTraffic

__all__ = ["main"]

ORPHANED, TOO_LATE = 3, 4
"""Exit codes: the parent has gone; the link did not open in time."""

LINGER_SECONDS = 0.2
"""How long the server stays for the acknowledgement of the client's last message to leave."""

PART_SECONDS = 10.0
"""How long the client's parent may take to hear that the server has finished, and to end the client's worker."""


class _FailureError(Exception):
    """Ends the worker with a `failed` event."""

    def __init__(self, kind: FailureKind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class _Worker:
    """Writes events; runs one session."""

    def __init__(self, events: IO[str]) -> None:
        self._events, self._start, self._lock = events, time.perf_counter(), threading.Lock()
        self._stop = threading.Event()

    def emit(self, event: str, **values: Any) -> None:
        line = WorkerEvent.model_validate({"event": event, "seconds": time.perf_counter() - self._start, **values})
        with self._lock:
            self._events.write(line.model_dump_json(exclude_none=True) + "\n")
            self._events.flush()

    def fail(self, kind: str, sentence: str) -> None:
        self.emit("failed", kind=kind, error=sentence)

    def run(self, orders: IO[str]) -> None:
        """Run the whole session."""
        order = Order.model_validate_json(orders.readline())
        # Imported here: a party that must not load the engine yet is ready to listen sooner.
        from hushlm.private.keys.certificates import create_session_certificate

        identity = create_session_certificate(order.scratch)
        if order.role == "client":
            # The handshake goes on while the engine loads.
            self.emit("listening", certificate=identity.text)
        description, weights = _load(order)
        if order.role == "server":
            self.emit("listening", certificate=identity.text)
        line = orders.readline()
        if not line:
            _orphaned(order.scratch)
        peer = PeerOrder.model_validate_json(line)
        threading.Thread(target=_watch_parent, args=(orders, order.scratch, self._stop), daemon=True).start()
        party = Party.CLIENT if order.role == "client" else Party.SERVER
        own, theirs = order.own_address, order.peer_address
        addresses = (own, theirs) if party is Party.CLIENT else (theirs, own)
        tls = identity.tls_files(peer.certificate) if order.tls else None
        with self._deadline(order.connect_seconds):
            try:
                channel = Channel(party, addresses, tls, order.silent_seconds, order.connect_seconds)
            except ConnectionError as error:
                raise _FailureError("link", _link_sentence(error, own, order.connect_seconds)) from error
        self.emit("linked")
        try:
            engine = Engine(party, _engine_settings(order, peer, description), channel, ProgramStore.of_user(_session(order, description)))
            self._work(order, engine, description, weights, peer.prompt)
            self._part(party, channel)
        except RuntimeError as error:
            raise _FailureError("peer", _peer_sentence(error, order.silent_seconds)) from error

    def _part(self, party: Party, channel: Channel) -> None:
        """End the session so that neither side dies of the other's end.

        The link's own close needs the peer alive and takes the process down (exit code 255) where it is not, and so do late
        acknowledgements. So the client has finished as soon as it has the answer, tells the server, and stays until its parent
        ends it; the server, which must not leave while its last share is on the way, waits for that word and leaves at once.
        """
        if party is Party.CLIENT:
            if channel.nudge is not None:
                channel.nudge.stop()
            self.emit("finished")
            channel.context.send(int(Party.SERVER), b"received")
            time.sleep(PART_SECONDS)
        else:
            channel.context.recv(int(Party.CLIENT))
            time.sleep(LINGER_SECONDS)
            self.emit("finished")

    def _work(
        self, order: Order, engine: Engine, description: ProgramDescription, weights: dict[str, np.ndarray] | None, prompt: list[int] | None
    ) -> None:
        """The session's own work, on an engine that is linked."""
        if order.kind == "ask" and order.bundle is None:
            plain = PrivateGenerator(engine, description, weights)
            self.emit("ready", traffic=WorkerTraffic.of(plain.set_up()))
            self._generate(order, plain.generate, prompt)
            return
        from hushlm.private.prepared.desk import Desk
        from hushlm.private.prepared.generator import PreparedGenerator
        from hushlm.private.session.prepared_work import BundleGoneError, StoreError, burn_together, make_bundles

        try:
            network = _network(order)
            generator = PreparedGenerator(Desk(engine, network), description, weights)
        except ValueError as error:
            raise _FailureError(
                "unfit", "This model's numbers do not fit prepared answers: ask without them (--prepared never)."
            ) from error
        # Before anything is burnt: a model that cannot be loaded uses nothing up.
        guess = None if order.draft_model is None else _guesses(order.draft_model)
        try:
            if order.kind == "prepare":
                self.emit("ready", traffic=WorkerTraffic.of(generator.set_up_preparing()))
                make_bundles(order, engine, generator, description, self._stop, self.emit)
                return
            products = multiplies_by_engine(_answer_plans(order, description), network)
            self.emit("ready", traffic=WorkerTraffic.of(generator.set_up_answer(products)))
            generator.place(prompt, order.prompt_length)
            material = burn_together(order, engine)
        except BundleGoneError as error:
            self.fail("bundle", str(error))
            time.sleep(LINGER_SECONDS)  # the other side's word may still be on its way to it
            os._exit(1)
        except StoreError as error:
            raise _FailureError("store", str(error)) from error
        self.emit("burnt", bundle=order.bundle)
        self._generate(order, partial(generator.generate, material, guess=guess), prompt, guesses=material.draft > 0)

    def _generate(
        self, order: Order, generate: Callable[..., Iterator[TokenAnswer]], prompt: list[int] | None, guesses: bool = False
    ) -> None:

        def on_step(step: Step, index: int, count: int, traffic: Traffic) -> None:
            self.emit("step", name=step.name, layer=step.layer, index=index, count=count, traffic=WorkerTraffic.of(traffic))

        # Guesses are checked against the likeliest tokens, which is what is chosen without a chooser.
        choose = None if guesses else order.sampling.chooser(order.reveal)
        for answer in generate(prompt, order.prompt_length, order.new_tokens, order.reveal, on_step, choose):
            self.emit(
                "token",
                token=answer.token,
                top=answer.top,
                logits=None if answer.logits is None else np.asarray(answer.logits, float).tolist(),
                traffic=WorkerTraffic.of(answer.traffic),
            )

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """End the process if the block takes longer: the native call that opens a link outlasts the time it was given."""

        def late() -> None:
            self.fail("link", _late_sentence(seconds))
            os._exit(TOO_LATE)

        timer = threading.Timer(seconds + 1, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _engine_settings(order: Order, peer: PeerOrder, description: ProgramDescription) -> EngineSettings:
    """The program's settings, with the session's number of threads, which both parties find alike, and its kind of transfers."""
    threads = peer.threads or description.engine.threads
    if order.bundle is not None:
        threads = answer_threads(_answer_plans(order, description), threads, _network(order))
    return replace(description.engine, threads=threads, transfers=peer.transfers)


def _session(order: Order, description: ProgramDescription) -> Hashable:
    """What a session's compiled programs depend on, and its lengths do not add to: candidates, checkpoints and the kind of oblivious
    transfers are in no program."""
    model = description.model_dump_json(include={"architecture", "shape", "rewrites", "engine"})
    network = None if order.network is None or order.bundle is None else order.network.model_dump_json()
    return order.kind, order.bundle is not None, model, order.reveal.operation(description.shape.vocabulary), network


def _network(order: Order) -> Network | None:
    return None if order.network is None else order.network.to_network()


def _answer_plans(order: Order, description: ProgramDescription) -> tuple[Plan, ...]:
    """The passes of an answer without guesses; those of one with guesses differ in nothing that a session's set-up depends on."""
    architecture, shape = description.parsed_architecture, description.shape
    reveal = order.reveal.operation(shape.vocabulary)
    return answer_plans(architecture, shape, order.prompt_length, order.new_tokens, reveal, description.rewrites)


def _guesses(folder: Path) -> Guess:
    from hushlm.private.program.draft_model import model_guesses

    try:
        return model_guesses(folder)
    except ValueError as error:
        raise _FailureError("input", str(error)) from error


def _load(order: Order) -> tuple[ProgramDescription, dict[str, np.ndarray] | None]:
    description = load_description(order.folder)
    if description.fingerprint != order.fingerprint:
        raise _FailureError("input", f"{order.folder} has changed since it was opened: start again.")
    weights = load_server_weights(order.folder) if order.role == "server" else None
    # Half a second of imports, spent before the peer waits for this party.
    load_engine()

    return description, weights


def _late_sentence(seconds: float) -> str:
    return (
        f"The engine's link to the peer did not open within {seconds:.0f} s: the peer is gone, or its certificate is not the one of this "
        "session."
    )


def _link_sentence(error: ConnectionError, own: str, seconds: float) -> str:
    if "failed start" in str(error.__cause__):
        return f"The engine cannot listen on {own}: another program has taken that port; try again."
    return _late_sentence(seconds)


def _peer_sentence(error: RuntimeError, seconds: float) -> str:
    if "timeout" in str(error).lower():
        return f"The peer was silent for {seconds:.0f} s in the middle of the computation, so the session was given up."
    return "The engine's link to the peer broke in the middle of the computation."


def _watch_parent(orders: IO[str], scratch: Path, stop: threading.Event) -> None:
    # The only further order is to stop soon. The end of the pipe means that the parent closed it, or is dead.
    for _ in orders:
        stop.set()
    _orphaned(scratch)


def _orphaned(scratch: Path) -> NoReturn:
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(ORPHANED)


def main() -> None:
    """Run one session; the exit code is 0 if it finished."""
    # Native libraries write to stdout: events get a descriptor of their own, and stdout becomes stderr (the session's log).
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    worker, code = _Worker(events), 1
    try:
        worker.run(sys.stdin)
        code = 0
    except _FailureError as failure:
        worker.fail(failure.kind, str(failure))
        traceback.print_exc()
    except ValueError as error:
        worker.fail("input", str(error))
        traceback.print_exc()
    except Exception as error:
        worker.fail("internal", f"The session's worker stopped on an internal error ({type(error).__name__}); its log says where.")
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # The engine's static destructors can hang or crash after the link is gone.
        os._exit(code)


if __name__ == "__main__":
    main()
