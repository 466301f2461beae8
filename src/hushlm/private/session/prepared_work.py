"""What a session's two workers do with prepared answers: make them and store each at both sides, or burn one before it is used.

Both functions are called at both parties at the same moment. A few words on the engine's link keep their stores in step; they carry
identities and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from hushlm.cost.prepared.offline import kept_bytes, material_bytes
from hushlm.plan import bucket_length
from hushlm.plan.needs import Need, answer_needs
from hushlm.private.bundles import BundleError, BundleStore, BundleStoreError
from hushlm.private.engine import Engine, Party
from hushlm.private.engine.traffic import Traffic
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.prepared.material import Material, MaterialError
from hushlm.private.program.description import ProgramDescription
from hushlm.private.session.process import Order, WorkerTraffic

__all__ = ["BundleGoneError", "StoreError", "batch_answers", "bundle_bytes", "burn_together", "make_bundles"]

BATCH_BYTES = 400_000_000
"""Most material that is made at once, at the client: the engine's own copies of it come on top, two to three times as much."""

BATCH_ANSWERS = 8
"""More at once make nothing cheaper, and whoever waits for a place waits for the whole batch."""

WORK_SECONDS = 0.5
"""Least time between two reports on how far the work is."""

HELD, GONE, BURNT, STORED, FAILED, GO_ON, STOP = b"held", b"gone", b"burnt", b"stored", b"failed", b"go on", b"stop"


class BundleGoneError(Exception):
    """A side does not have the session's prepared answer, or has used it; the message is a sentence."""


class StoreError(Exception):
    """A side's store cannot be written; the message is a sentence."""


class _Link:
    """Words between the two workers, in step with each other."""

    def __init__(self, engine: Engine) -> None:
        assert engine.channel is not None
        self._context, self._other = engine.channel.context, int(engine.party.other)

    def tell(self, word: bytes) -> None:
        self._context.send(self._other, word)

    def hear(self) -> bytes:
        return self._context.recv(self._other)

    def exchange(self, word: bytes) -> bytes:
        """Tell a word, and hear the other party's."""
        self.tell(word)
        return self.hear()


def bundle_bytes(description: ProgramDescription, prompt_length: int, new_tokens: int, client: bool, draft: int = 0) -> int:
    """Bytes of one prepared answer on a party's disk.

    Raises:
        ValueError: if the lengths do not fit the context.
    """
    at_client, at_server = kept_bytes(_needs(description, prompt_length, new_tokens, draft))
    return at_client if client else at_server


def _needs(description: ProgramDescription, prompt_length: int, new_tokens: int, draft: int) -> list[list[Need]]:
    architecture, shape = description.parsed_architecture, description.shape
    return answer_needs(architecture, shape, bucket_length(prompt_length, shape.context), new_tokens, description.rewrites, draft)


def batch_answers(description: ProgramDescription, prompt_length: int, new_tokens: int, draft: int = 0) -> int:
    """How many prepared answers are made at once, the same at both parties."""
    return max(1, min(BATCH_ANSWERS, BATCH_BYTES // material_bytes(_needs(description, prompt_length, new_tokens, draft))[0]))


def make_bundles(
    order: Order,
    engine: Engine,
    generator: PreparedGenerator,
    description: ProgramDescription,
    stop: threading.Event,
    emit: Callable[..., Any],
) -> None:
    """Make prepared answers batch by batch, and store each at both sides; every one that is reported as stored stays.

    Args:
        order: how many, and for which lengths.
        engine: of this party.
        generator: on that engine, set up already.
        description: of the program.
        stop: set once this side wants no further batch.
        emit: gives an event to the parent.

    Raises:
        StoreError: if this side cannot store one.
    """
    link, store = _Link(engine), _store(order)
    most, made = batch_answers(description, order.prompt_length, order.new_tokens, order.draft), 0
    while made < order.answers:
        count, spoken = min(most, order.answers - made), time.monotonic()

        def on_work(share: float, before: int = made, count: int = count) -> None:
            nonlocal spoken
            if time.monotonic() - spoken > WORK_SECONDS:
                spoken = time.monotonic()
                emit("work", share=(before + share * count) / order.answers)

        materials, traffic = generator.prepare(order.prompt_length, order.new_tokens, count, on_work, order.draft)
        for material in materials:
            if link.exchange(material.identity) != material.identity:
                raise MaterialError("The two parties hold halves of different materials: nothing was stored.")
            size_bytes = _store_together(engine.party, link, store, material, order.fingerprint)
            made += 1
            moved = WorkerTraffic.of(traffic)
            emit("stored", index=made, count=order.answers, bundle=material.identity.hex(), size_bytes=size_bytes, traffic=moved)
            traffic = Traffic()  # what a batch moved is told once
        if made < order.answers:
            word = STOP if stop.is_set() else GO_ON
            if STOP in (word, link.exchange(word)):
                return


def _store_together(party: Party, link: _Link, store: BundleStore, material: Material, fingerprint: str) -> int:
    """The server first: a client that lists a prepared answer can count on the server's half. Returns: bytes of this side's."""
    if party is Party.CLIENT and link.hear() != STORED:
        raise StoreError("The server could not store a prepared answer: those before it are kept.")
    try:
        info = store.add(material, fingerprint)
    except BundleError as error:
        link.tell(FAILED)
        raise StoreError(str(error)) from error
    finally:
        material.drop()
    link.tell(STORED)
    if party is Party.SERVER and link.hear() != STORED:
        raise StoreError("The client could not store a prepared answer: those before it are kept.")
    return info.size_bytes


def burn_together(order: Order, engine: Engine) -> Material:
    """This side's half of the session's prepared answer, once both sides have it on record as used.

    Nothing that depends on it has been sent by then. The client burns first, the server when it has heard that, and the client goes on when
    it has heard the server: a crash in between leaves a half that has no other half any more.

    Raises:
        BundleGoneError: if either side does not have it; then neither has it any more.
        StoreError: if this side's store cannot be written.
    """
    link, store, name = _Link(engine), _store(order), order.bundle
    assert name is not None
    mine = HELD if any(info.identity == name for info in store.list(order.fingerprint)) else GONE
    theirs = link.exchange(mine)
    if mine != HELD or theirs != HELD:
        if mine == HELD:
            store.drop(name)
        raise BundleGoneError(_gone(engine.party, mine == HELD))
    if engine.party is Party.SERVER:
        _expect_burnt(engine.party, link, store, name)
    try:
        material = store.burn(name)
    except BundleStoreError as error:
        link.tell(FAILED)
        raise StoreError(str(error)) from error
    except BundleError as error:  # damaged, or used by another session a moment ago
        link.tell(GONE)
        store.drop(name)
        raise BundleGoneError(_gone(engine.party, False)) from error
    link.tell(BURNT)
    if engine.party is Party.CLIENT:
        try:
            _expect_burnt(engine.party, link, store, name)
        except BaseException:
            material.drop()
            raise
    return material


def _expect_burnt(party: Party, link: _Link, store: BundleStore, name: str) -> None:
    """Hear that the other side has burnt its half; otherwise this side's is of no use any more."""
    word = link.hear()
    if word != BURNT:
        store.drop(name)
        if word == FAILED:
            raise StoreError(f"The {party.other.name.lower()} cannot record that a prepared answer is used, so it is not used.")
        raise BundleGoneError(_gone(party, True))


def _gone(party: Party, held_here: bool) -> str:
    who = party.other if held_here else party
    return f"The {who.name.lower()} no longer has the prepared answer of this session, so both sides have dropped it."


def _store(order: Order) -> BundleStore:
    assert order.store is not None
    return BundleStore(order.store, Party.CLIENT if order.role == "client" else Party.SERVER, order.peer)
