"""The embedding online: rows of the server's table that the client alone chooses, as shares modulo 2^32."""

from __future__ import annotations

import numpy as np

from hushlm.plan.needs import LookUpNeed, ProjectNeed
from hushlm.plan.protocol_settings import SMALL_RING_BITS
from hushlm.private.engine.small_ring import SmallWords
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.material import Material
from hushlm.private.prepared.placing import bucket_ids, kept_places
from hushlm.private.prepared.ring import WeightMatrix
from hushlm.private.prepared.values import ClientRows, ServerValue

__all__ = ["look_up", "whole_rows"]


def whole_rows(desk: Desk, material: Material, need: ProjectNeed, one_hot: ClientRows, table: ServerValue) -> SmallWords:
    """One-hot rows of the whole vocabulary times the table, for a few rows: only the client sends."""
    with material.take(need) as item:
        if desk.is_client:
            assert one_hot.value is not None
            desk.link.send(one_hot.value.astype(np.uint32) - item["mask"])
            product = item["product"].copy()
        else:
            masked = desk.link.receive(one_hot.shape, np.uint32)
            product = table.matrix(need.ring_bits).product(masked.astype(np.uint64)) + item["product"]
    return product.astype(np.uint32)


def look_up(desk: Desk, material: Material, need: LookUpNeed, one_hot: ClientRows, table: ServerValue) -> SmallWords:
    """Rows of the table by way of slots.

    With x the one-hot rows of the slots and p those that say which slot each row is taken from, the client sends x - R and p - C. Of the
    slots' rows x W the server then has u = (x - R) W + (its share of R W), and sends u - S. The client takes the rows p of its
    share of R W plus u - S; what they lack is p S = (p - C) S + C S.
    """
    dealt, wanted = need.dealt, (need.dealt.places, need.width)
    with material.take(need) as item:
        if desk.is_client:
            assert one_hot.value is not None
            rows, ids = np.nonzero(one_hot.value)
            slots, choice = np.negative(item["mask"]), np.negative(item["choice"])
            placed = kept_places(tuple(ids.tolist()), dealt)
            bucket, slot, column = np.array([placed[token] for token in ids.tolist()], np.int64).reshape(-1, 3).T
            slots[bucket, slot, column] = np.uint32(1) - item["mask"][bucket, slot, column]
            of_row = bucket * need.slots + slot
            choice[rows, of_row] += np.uint32(1)
            desk.link.send(np.concatenate([slots.reshape(-1), choice.reshape(-1)]))
            product = item["chosen"].astype(np.uint32)
            product[rows] += (item["product"] + desk.link.receive(wanted, np.uint32))[of_row]
            return product
        masked = desk.link.receive((need.client_words,), np.uint32)
        slots, choice = masked[: dealt.places * dealt.columns], masked[dealt.places * dealt.columns :]
        found = item["product"].copy()
        whole = table.matrix(SMALL_RING_BITS)
        for bucket, (ids, rows) in enumerate(zip(bucket_ids(dealt), slots.reshape(dealt.count, dealt.slots, -1), strict=True)):
            top = bucket * dealt.slots
            found[top : top + dealt.slots] += whole.rows(ids).product(rows[:, : len(ids)].astype(np.uint64)).astype(np.uint32)
        desk.link.send(found - item["hidden"])
        hidden = WeightMatrix(item["hidden"].view(np.int32).astype(np.int64), SMALL_RING_BITS)
        picked = hidden.product(choice.reshape(need.rows, dealt.places).astype(np.uint64)).astype(np.uint32)
        return picked + item["chosen"]
