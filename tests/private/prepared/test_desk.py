"""Shares in and out of the engine, the small ring, and what both cost, between two processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.private.prepared.shared import opened, shared

from hushlm.calibration.both_parties import run_both
from hushlm.cost.prepared.online_bytes import SELECTION, SMALL_COMPARISON
from hushlm.private.engine import Engine, EngineSettings, Party
from hushlm.private.engine.shares import decode, encode, install_private, install_words, words_of
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.masks import MaskSource

pytest.importorskip("spu")
pytestmark = [pytest.mark.slow, pytest.mark.two_party]

N = 4096


def _work(engine: Engine) -> dict[str, Any]:
    desk, found = Desk(engine), dict[str, Any]()
    client = desk.is_client
    random = np.random.default_rng(1)

    # Truncation: near the ends of what it can take and everywhere between, by fewer and by more bits than the engine's own.
    for bits in (18, 14, 4, 34):
        most = 44 + min(bits, 18)
        raw = np.concatenate([sign * (np.int64(1) << np.arange(2, most)) + 1 for sign in (-1, 1)])
        raw = np.concatenate([raw, random.integers(-(2 ** (most - 1)), 2 ** (most - 1), N)])
        words = shared(desk, raw.view(np.uint64))
        desk.take_traffic()
        quotient = desk.divide(words, bits)
        found[f"traffic of {bits}"] = desk.take_traffic()
        found[f"divided by 2^{bits}"] = int(np.abs(opened(desk, quotient).view(np.int64) - (raw >> bits)).max())

    # A value of 64 bits through the engine and back, and words of private and public values.
    random_words = random.integers(0, 2**64, (3, 5), dtype=np.uint64)
    install_words(engine, "x", shared(desk, random_words))
    found["kept"] = bool((opened(desk, words_of(engine, "x")) == random_words).all())
    for owner in Party:
        mine = owner is engine.party
        install_private(engine, "p", owner, (3, 5), random_words if mine else None)
        found[f"private to {owner.name}"] = bool((opened(desk, words_of(engine, "p")) == random_words).all())
    engine.put("q", Party.SERVER, (4,), None if client else np.array([0.5, -1, 2, -3]))
    engine.put_public("r", np.array([0.5, -1, 2, -3]))
    for name in "qr":
        found[f"floats {name}"] = decode(opened(desk, words_of(engine, name)), 18).tolist()

    # Comparisons in 32 bits, to the edge of what fits.
    edge = 2**13 - 2**-18
    values = np.concatenate([[edge, -edge, 2**-18, -(2**-18), 0.0], random.uniform(-edge, edge, N)])
    x = shared(desk, encode(values, 18))
    # The first of each fills stocks.
    desk.where(desk.small("negative", lambda v: v < 0, [x])[0], x)
    desk.take_traffic()
    (negative,) = desk.small("negative", lambda v: v < 0, [x])
    found["traffic of comparisons"] = desk.take_traffic()
    chosen = desk.where(negative, x)
    found["traffic of selections"] = desk.take_traffic()
    below = opened(desk, chosen)
    exact = encode(values, 18)
    found["below zero"] = bool((below == np.where(exact.view(np.int64) < 0, exact, np.uint64(0))).all())
    (small,) = desk.small("negated", lambda v: -v, [shared(desk, encode(values / 4, 18))])
    found["widened"] = float(np.abs(decode(opened(desk, desk.widen(small, 2)), 18) + values / 16).max())
    found["sizes"] = (len(values),)

    # Whole numbers are multiplied modulo 2^64 by programs compiled for floats.
    source = MaskSource()
    a, b = source.words((4, 8)), source.words((8, 3))
    (c,) = desk.program("dot", lambda p, q: p @ q, [a, b], whole=True)
    found["whole product"] = bool((opened(desk, a) @ opened(desk, b) == opened(desk, c)).all())
    return found


def test_shares_truncations_comparisons() -> None:
    client, server = run_both(_work, (), EngineSettings())
    for found in (client, server):
        for bits in (18, 14, 4, 34):
            assert found[f"divided by 2^{bits}"] <= 1
        assert found["kept"]
        assert found["private to CLIENT"]
        assert found["private to SERVER"]
        assert found["floats q"] == found["floats r"] == [0.5, -1, 2, -3]
        assert found["below zero"]
        assert found["widened"] <= 2 * 2.0**-18
        assert found["whole product"]
    # What one party sends the other receives.
    for name in ("traffic of 18", "traffic of comparisons", "traffic of selections"):
        assert client[name].sent_bytes == server[name].received_bytes > 0
        assert client[name].received_bytes == server[name].sent_bytes > 0
    n = client["sizes"][0]
    for name, price in (("comparisons", SMALL_COMPARISON), ("selections", SELECTION)):
        assert client[f"traffic of {name}"].total_bytes == pytest.approx(n * price, rel=0.01)
