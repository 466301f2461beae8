"""What a party receives online looks like noise, whatever the prompt and the weights are; and what using material twice would give away."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.private.models import MANY_IDS, SMALL
from tests.private.prepared.answers import Exported, exported

from hushlm.calibration.both_parties import stream_both
from hushlm.cost.network import WAN
from hushlm.private.bundles import BundleStore
from hushlm.private.engine import Engine, EngineSettings
from hushlm.private.engine.shares import WordLink, decode
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.generator import PreparedGenerator
from hushlm.private.prepared.material import MaterialError
from hushlm.private.program.description import RevealPolicy

pytest.importorskip("spu")
pytestmark = [pytest.mark.slow, pytest.mark.two_party]

PROMPT, OTHER = [3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]
ROWS = 32


class RecordingLink(WordLink):
    """A link that keeps what it received, and what it opened."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.received: list[np.ndarray] = []
        self.opened: list[list[np.ndarray]] = []

    def receive(self, shape: tuple[int, ...], kind: Any = np.uint64) -> np.ndarray:
        self.received.append(super().receive(shape, kind).copy())
        return self.received[-1]

    def open(self, *shares: np.ndarray) -> list[np.ndarray]:
        self.opened.append(super().open(*shares))
        return self.opened[-1]


@dataclass
class Heard:
    """What a party received of each message, in order, and every value that both opened."""

    received: list[np.ndarray] = field(default_factory=list)
    opened: list[list[np.ndarray]] = field(default_factory=list)


def _listen(engine: Engine, exports: list[Exported]) -> Iterator[Any]:
    desk = Desk(engine, WAN)  # with the forms that open most
    desk.link = link = RecordingLink(engine)
    policy = RevealPolicy(kind="logits")

    def heard(generator: PreparedGenerator, material: Any, prompt: list[int]) -> Heard:
        link.received, link.opened = [], []
        list(generator.generate(material, prompt if desk.is_client else None, len(prompt), 1, policy))
        return Heard(link.received, link.opened)

    for number, export in enumerate(exports):
        generator = PreparedGenerator(desk, export.description, None if desk.is_client else export.weights)
        if not number:
            generator.set_up()
        materials, _ = generator.prepare(len(PROMPT), 1, count=5)
        # The danger itself, which no code of the package can do: the same material for two prompts.
        twice = copy.deepcopy(materials[2])
        found = [heard(generator, materials[0], PROMPT), heard(generator, materials[1], PROMPT)]
        again = heard(generator, materials[2], PROMPT), heard(generator, twice, OTHER)
        refused = []
        for used in (materials[0], materials[3] if desk.is_client else materials[0]):
            left = used.items_left
            desk.take_traffic()
            with pytest.raises(MaterialError) as error:
                heard(generator, used, OTHER)
            refused.append((str(error.value), desk.take_traffic().total_bytes, len(link.received), used.items_left == left))
        # The same once more, of which one half was stored and read back.
        in_memory = copy.deepcopy(materials[4])
        with tempfile.TemporaryDirectory() as folder:
            store = BundleStore(Path(folder), engine.party, "peer")
            on_disk = store.burn(store.add(materials[4], export.description.fingerprint).identity)
        stored = heard(generator, on_disk, PROMPT), heard(generator, in_memory, PROMPT)
        yield found, again, refused, stored


@pytest.fixture(scope="module")
def listened() -> list[tuple[Any, Any]]:
    """Of two models of one architecture and of one that looks its prompt up in buckets, at client and server: two runs, one doubly used
    material, and a refused second use."""
    exports = [exported("SM2+LN+R")[1], exported("SM2+LN+R", seed=2)[1], exported("SM2+LN+R", MANY_IDS)[1]]
    return list(stream_both(_listen, (exports,), EngineSettings()))


def words(heard: Heard, kind: type = np.uint64) -> np.ndarray:
    # The first message is the material's identity, which both know; the embedding's words have 32 bits.
    return np.concatenate([np.empty(0, kind), *(each.reshape(-1) for each in heard.received[1:] if each.dtype == kind)])


@pytest.mark.parametrize("party", [0, 1])
def test_what_is_received_is_uniform_and_depends_on_nothing(listened: list[tuple[Any, Any]], party: int) -> None:
    runs = [run for model in listened for run in model[party][0]]
    for seen in (words(run, kind) for run in runs for kind in (np.uint64, np.uint32)):
        if not len(seen):
            continue
        bytes_seen = seen.view(np.uint8)
        counts, expected = np.bincount(bytes_seen, minlength=256), len(bytes_seen) / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        # 255 degrees of freedom: a standard deviation of 22.6.
        assert abs(chi_square - 255) < 6 * 22.6
        # Each bit of a word alike: a sum of n fair bits.
        bits = ((seen[:, None] >> np.arange(8 * seen.itemsize, dtype=seen.dtype)) & seen.dtype.type(1)).mean(0)
        assert np.abs(bits - 0.5).max() < 6 * 0.5 / np.sqrt(len(seen))
    assert len(words(runs[4], np.uint32)), "slots and choices at the server, rows of slots at the client"
    # The same prompt and weights twice, and other weights: the same sizes, and nothing else in common.
    for one, other, kind in ((0, 1, np.uint64), (0, 2, np.uint64), (1, 3, np.uint64), (4, 5, np.uint64), (4, 5, np.uint32)):
        x, y = words(runs[one], kind), words(runs[other], kind)
        assert x.shape == y.shape
        # Of 32-bit words one in four thousand million meets its like by chance.
        assert (x == y).sum() <= (kind is np.uint32)
        assert abs(np.corrcoef(x.astype(np.float64), y.astype(np.float64))[0, 1]) < 6 / np.sqrt(len(x))


def test_two_prompts_on_one_material_would_differ_by_exactly_their_values(listened: list[tuple[Any, Any]]) -> None:
    first, second = listened[0][1][1]
    # The server's view of the embedding: one-hot rows less one mask.
    difference = (first.received[1] - second.received[1]).view(np.int32)
    hot = np.zeros((ROWS, SMALL.vocabulary), np.int32)
    for row, (one, other) in enumerate(zip(PROMPT, OTHER, strict=True)):
        hot[row, one] += 1
        hot[row, other] -= 1
    assert (difference == hot).all(), "the server would read both prompts off"
    # And of a value that both open: centred rows of the embedding, one mask, so the values' own difference.
    export = exported("SM2+LN+R")[1]
    table = export.weights["embedding.table"]
    centred = [table[prompt] - table[prompt].mean(-1, keepdims=True) for prompt in (PROMPT, OTHER)]
    seen = decode(first.opened[0][0] - second.opened[0][0], 18)[: len(PROMPT)]
    # Positions are the same for both prompts, so they cancel.
    np.testing.assert_allclose(seen, centred[0] - centred[1], atol=1e-4)


def test_stored_material_opens_the_same_words(listened: list[tuple[Any, Any]]) -> None:
    for model in listened:
        on_disk, in_memory = model[1][3]
        # The server's view of the embedding is the rows less the mask, and the first value that both open has the same masks at both
        # parties: what differs is the last unit, by which the engine's truncation errs.
        assert (on_disk.received[1] == in_memory.received[1]).all()
        off = (on_disk.opened[0][0] - in_memory.opened[0][0]).view(np.int64)
        assert np.abs(off).max() <= 4
        assert len(on_disk.opened) == len(in_memory.opened)


@pytest.mark.parametrize("party", [0, 1])
def test_a_second_use_and_another_half_are_refused_before_a_word_is_sent(listened: list[tuple[Any, Any]], party: int) -> None:
    for model in listened:
        (again, *again_moved), (swapped, *swapped_moved) = model[party][2]
        assert again.startswith("Everything that was prepared for this answer has been used")
        assert swapped.startswith("The two parties hold halves of different materials")
        # One message of the other party's, the material's identity; no bytes after it, and no item used up.
        assert again_moved == swapped_moved == [0, 1, True]
