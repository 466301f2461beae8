"""Rows looked up by way of buckets: the rows themselves as shares, and nothing of their ids in what is sent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.plan.lookup import Buckets
from hushlm.plan.needs import LookUpNeed
from hushlm.private.prepared.forms.embedding import look_up
from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.offline import draw_item
from hushlm.private.prepared.placing import PlacementError, bucket_ids, bucket_pairs, place_ids
from hushlm.private.prepared.values import ClientRows, ServerValue

pytest.importorskip("scipy")

NEED = LookUpNeed("table", rows=6, vocabulary=50, width=3, buckets=4, slots=2)
BITS = 18
ids_of_prompts = st.lists(st.integers(0, NEED.vocabulary - 1), min_size=0, max_size=NEED.rows)


class Link:
    """One end of a link between two parties that take turns in one thread."""

    def __init__(self, incoming: list[np.ndarray], outgoing: list[np.ndarray]) -> None:
        self.incoming, self.outgoing, self.sent = incoming, outgoing, list[np.ndarray]()

    def send(self, words: np.ndarray) -> None:
        self.outgoing.append(words.copy())
        self.sent.append(words.copy())

    def receive(self, shape: tuple[int, ...], kind: Any = np.uint64) -> np.ndarray:
        words = self.incoming.pop(0)
        assert (words.shape, words.dtype) == (shape, kind)
        return words


class Party:
    def __init__(self, is_client: bool, link: Link, words: dict[str, np.ndarray]) -> None:
        self.is_client, self.link, self.words = is_client, link, words

    @contextmanager
    def take(self, need: LookUpNeed) -> Iterator[dict[str, np.ndarray]]:
        assert need == NEED
        yield self.words


def dealt_material(table: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What both parties make together, by a dealer, whom no code of the package has."""
    client, server = draw_item(NEED, MaskSource(), True).words, draw_item(NEED, MaskSource(), False).words
    modulus = np.uint64(2**32 - 1)
    for bucket, ids in enumerate(bucket_ids(NEED.dealt)):
        place = slice(bucket * NEED.slots, (bucket + 1) * NEED.slots)
        client["product"][place] = client["mask"][bucket][:, : len(ids)].astype(np.uint64) @ table[ids].view(np.uint64) & modulus
    client["chosen"][:] = client["choice"].astype(np.uint64) @ server["hidden"].astype(np.uint64) & modulus
    for name in ("product", "chosen"):
        server[name][:] = MaskSource().words(server[name].shape).astype(np.uint32)
        client[name] -= server[name]
    return client, server


def answer(
    ids: list[int], table: np.ndarray, material: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sum of both shares, what the client sent, and what the server sent."""
    one_hot = np.zeros((NEED.rows, NEED.vocabulary), np.float32)
    one_hot[np.arange(len(ids)), ids] = 1
    value = ServerValue("table", table.shape, table / 2.0**BITS, BITS)
    to_server, to_client = list[np.ndarray](), list[np.ndarray]()
    server = Party(False, Link(to_server, to_client), material[1])

    class Asking(Link):
        """The client waits for the server's answer, so that this is when the server runs."""

        def receive(self, shape: tuple[int, ...], kind: Any = np.uint64) -> np.ndarray:
            served.append(look_up(cast(Any, server), cast(Any, server), NEED, ClientRows(one_hot.shape, None), value))
            return super().receive(shape, kind)

    served = list[np.ndarray]()
    client = Party(True, Asking(to_client, to_server), material[0])
    mine = look_up(
        cast(Any, client), cast(Any, client), NEED, ClientRows(one_hot.shape, one_hot), ServerValue("table", table.shape, None, BITS)
    )
    return mine + served[0], client.link.sent[0], server.link.sent[0]


@settings(max_examples=60, deadline=None)
@given(ids_of_prompts, st.integers(0, 2**32))
def test_shares_are_of_the_tables_rows(ids: list[int], seed: int) -> None:
    table = np.random.default_rng(seed).integers(-(2**30), 2**30, (NEED.vocabulary, NEED.width))
    try:
        place_ids(tuple(ids), NEED.dealt)
    except PlacementError:
        return
    found, _, _ = answer(ids, table, dealt_material(table))
    wanted = np.zeros((NEED.rows, NEED.width), np.int64)
    wanted[: len(ids)] = table[ids]
    assert found.dtype == np.uint32
    assert (found.view(np.int32) == wanted).all(), "a row of padding has zeros"


def test_two_prompts_on_one_material_differ_in_the_words_that_are_masked_and_in_size_in_nothing() -> None:
    table = np.random.default_rng(0).integers(-(2**30), 2**30, (NEED.vocabulary, NEED.width))
    material = dealt_material(table)
    twice = [answer(ids, table, material) for ids in ([1, 2, 3], [7, 7, 7, 7, 7, 9])]
    (_, first, first_back), (_, second, second_back) = twice
    assert first.shape == second.shape == (NEED.client_words,)
    assert first_back.size == second_back.size == NEED.server_words
    # The danger of a second use: one-hot rows and choices themselves. Three ids placed and three rows chosen, against two and six.
    difference = (first - second).view(np.int32)
    assert set(difference.tolist()) == {-1, 0, 1}
    assert difference.sum() == (3 + 3) - (2 + 6)
    # With material of its own each prompt's words have nothing in common, and the server's answer neither.
    _, other, other_back = answer([1, 2, 3], table, dealt_material(table))
    assert not (first == other).any()
    assert not (first_back == other_back).any()


def test_a_prompt_written_not_to_fit_is_refused_before_anything_is_sent() -> None:
    dealt = Buckets(6000, 7, 8)
    together = np.flatnonzero((bucket_pairs(dealt) == [2, 5]).all(1))
    assert len(place_ids(tuple(together[:16].tolist()), dealt)) == 16
    with pytest.raises(PlacementError, match=r"17 different tokens do not fit the 7 buckets .* change a word"):
        place_ids(tuple(together[:17].tolist()), dealt)
    table = np.zeros((NEED.vocabulary, NEED.width), np.int64)
    few = np.flatnonzero((bucket_pairs(NEED.dealt) == [0, 1]).all(1))[:5].tolist()
    material = dealt_material(table)
    before = {name: words.copy() for name, words in material[0].items()}
    with pytest.raises(PlacementError):
        answer(few, table, material)
    assert all((words == before[name]).all() for name, words in material[0].items())
