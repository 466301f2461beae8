"""The material itself, made by both parties together with the engine's own homomorphic products: nobody deals, nobody is trusted.

Every mask is drawn by the party that keeps it. Of a shared mask A = A_client + A_server neither knows the sum. Of a product of masks each
party multiplies its own parts by itself; what mixes both parties' parts goes through the engine as whole numbers modulo 2^64, without
truncation, and each keeps its share of it. Work of several answers is done together: all rows that meet one weight in one product, all
elementwise products in one call, the rows of all further tokens that read one cache in one product a head.

What an item holds, by need and party (C client, S server, CS both):

    ProjectNeed     mask R (T, I) C;                       product R W (T, O) CS
    LookUpNeed      mask R (B, m, K) C, choice C (T, B m) C, hidden S (B m, D) S; product R_b W_b (B m, D) CS, chosen C S (T, D) CS
    ScaleNeed       mask R (H, T, E) C, B (H, T, 1) S;     product R * B CS
    AttendNeed      left A (H, T, .), right B (H, new, E), product A B^T or A B CS
    SquareNeed      mask A, product A * A CS
    ScaleRowsNeed   rows A (R, N), factors B (R,), product B_r A_r CS
    CentreNeed      the same, and lengths |A_r|^2 (R,) CS
    MultiplyNeed    left A, right B, product A * B CS

Of a LookUpNeed, B are buckets of m slots and at most K ids, and W_b the rows of W in one of them; its words are modulo 2^32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hushlm.plan.cuts import product_cut
from hushlm.plan.needs import (
    IDENTITY_BYTES,
    MOST_ELEMENTS,
    AttendNeed,
    CentreNeed,
    LookUpNeed,
    MultiplyNeed,
    Need,
    ProjectNeed,
    ScaleNeed,
    ScaleRowsNeed,
    SquareNeed,
)
from hushlm.private.engine import Party, Traffic
from hushlm.private.engine.shares import Words, install_private, install_words
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.material import Item, Material
from hushlm.private.prepared.material_work import ATTEND_WORK, DOUBLE_WORK, ELEMENT_WORK, material_work
from hushlm.private.prepared.placing import bucket_ids

__all__ = ["Cross", "OnWork", "Preparer", "draw_item"]

OnWork = Callable[[float], None]
"""Is told the share of a preparation's work that is done, 0 to 1."""


@dataclass
class Cross:
    """Elementwise products of the parties' numbers, and where this party's shares of them are added.

    Attributes:
        left: this party's factors.
        right: None where one number of the client's meets one of the server's, `left` being the own one. Otherwise both parties have parts
            of both factors, and client's left times server's right plus server's left times client's right is wanted: two products for
            1.7 times the price of one.
        times: each counts so often.
        to: array that the shares are added to; where it has fewer elements, sums over the last axis are added.
    """

    left: Words
    right: Words | None
    times: int
    to: Words

    def add(self, shares: Words) -> None:
        shares = shares.reshape(self.left.shape) * np.uint64(self.times)
        self.to += shares if self.to.shape == shares.shape else shares.sum(-1, dtype=np.uint64)


class Preparer:
    """Makes material at one party; the other one makes the same calls.

    Args:
        desk: of this party.
        weights: at the server, its tensors as whole numbers (fixed point) by name; None at the client.
        encoded_bytes: the server's memory for the encoded weights of one product.
    """

    def __init__(self, desk: Desk, weights: dict[str, np.ndarray] | None, encoded_bytes: float) -> None:
        assert (weights is None) == desk.is_client
        self._desk, self._weights, self._encoded_bytes = desk, weights, encoded_bytes
        self._on_work: OnWork | None = None
        self._work = self._whole_work = 0.0

    def prepare(
        self, needs: Sequence[Sequence[Need]], prompt_bucket: int, count: int, on_work: OnWork | None = None, draft: int = 0
    ) -> tuple[list[Material], Traffic]:
        """Material for `count` answers, all with the same needs (one list a pass, as `answer_needs` gives them), and what moved."""
        self._desk.take_traffic()
        self._on_work, self._work = on_work, 0.0
        self._whole_work = count * material_work(need for each in needs for need in each)
        sources = [MaskSource() for _ in range(count)]
        answers = [[draw_item(need, source, self._desk.is_client) for each in needs for need in each] for source in sources]
        items = [item for answer in answers for item in answer]
        self._multiply_weights([item for item in items if isinstance(item.need, ProjectNeed)])
        self._look_up([item for item in items if isinstance(item.need, LookUpNeed)])
        self._multiply_elements([cross for item in items for cross in self._crosses(item)])
        for answer in answers:
            self._multiply_caches([item for item in answer if isinstance(item.need, AttendNeed)])
        identities = self._identities(count)
        materials = [
            Material(prompt_bucket, len(needs), identity, answer, draft=draft, _seed=source.seed)
            for identity, answer, source in zip(identities, answers, sources, strict=True)
        ]
        return materials, self._desk.take_traffic()

    def _did(self, work: float) -> None:
        self._work += work
        if self._on_work is not None:
            self._on_work(min(1.0, self._work / self._whole_work))

    def _identities(self, count: int) -> list[bytes]:
        """Drawn by the client, so that two halves that do not belong together are found out before they are used."""
        link, shape = self._desk.link, (count, IDENTITY_BYTES // 8)
        if self._desk.is_client:
            drawn = MaskSource().words(shape)
            link.send(drawn)
        else:
            drawn = link.receive(shape)
        return [each.tobytes() for each in drawn]

    def _crosses(self, item: Item) -> list[Cross]:
        """Adds this party's own products to the item, and says which of the others' numbers meet which of its own."""
        words, client = item.words, self._desk.is_client
        match item.need:
            case ScaleNeed(width=width):
                return [Cross(words["mask"] if client else np.repeat(words["mask"], width, -1), None, 1, words["product"])]
            case SquareNeed():
                words["product"] += words["mask"] * words["mask"]
                return [Cross(words["mask"], None, 2, words["product"])]
            case CentreNeed() | ScaleRowsNeed():
                rows, factors = words["rows"], np.repeat(words["factors"][:, None], words["rows"].shape[1], 1)
                words["product"] += factors * rows
                crosses = [Cross(factors, rows, 1, words["product"])]
                if isinstance(item.need, CentreNeed):
                    words["lengths"] += (rows * rows).sum(-1, dtype=np.uint64)
                    crosses.append(Cross(rows, None, 2, words["lengths"]))
                return crosses
            case MultiplyNeed():
                words["product"] += words["left"] * words["right"]
                return [Cross(words["left"], words["right"], 1, words["product"])]
            case _:
                return []

    def _multiply_elements(self, crosses: list[Cross]) -> None:
        """All elementwise products together: ciphertexts are filled, and round trips are paid once."""
        for double in (False, True):
            group = [cross for cross in crosses if (cross.right is not None) == double]
            if not group:
                continue
            left = np.concatenate([cross.left.reshape(-1) for cross in group])
            right = np.concatenate([cross.right.reshape(-1) for cross in group if cross.right is not None]) if double else left
            shares = np.empty_like(left)
            for start in range(0, len(left), MOST_ELEMENTS):
                part = slice(start, start + MOST_ELEMENTS)
                if double:
                    (shares[part],) = self._desk.program("products", lambda a, b: a * b, [left[part], right[part]], whole=True)
                    # The engine's product has this party's own parts in it, which the item has already.
                    shares[part] -= left[part] * right[part]
                else:
                    shares[part] = self._private_product("elements", left[part], left[part], lambda a, b: a * b, secret=True)
                self._did((DOUBLE_WORK if double else ELEMENT_WORK) * len(left[part]))
            at = 0
            for cross in group:
                cross.add(shares[at : at + cross.left.size])
                at += cross.left.size

    def _private_product(
        self,
        key: str,
        client: Words | tuple[int, ...],
        server: Words | tuple[int, ...],
        function: Callable[..., Any],
        secret: bool = False,
    ) -> Words:
        """This party's share of a product of what the client has with what the server has.

        Args:
            client, server: this party's words; of the other party's factor its shape, or any words of that shape.
            secret: the client's factor goes in as a shared value of which the server has zeros: of elementwise products the engine
                recognises one private factor, and of two it would compute both cross products.
        """
        desk = self._desk
        shapes = [each if isinstance(each, tuple) else each.shape for each in (client, server)]
        mine = client if desk.is_client else server
        assert not isinstance(mine, tuple), "a party gives its own factor"
        left, right = (mine, None) if desk.is_client else (None, mine)
        if secret:
            install_words(desk.engine, "desk.client", np.zeros(shapes[0], np.uint64) if left is None else left, whole=True)
        else:
            install_private(desk.engine, "desk.client", Party.CLIENT, shapes[0], left)
        install_private(desk.engine, "desk.server", Party.SERVER, shapes[1], right)
        return desk.execute(("private", key), function, shapes, ["desk.client", "desk.server"])[0]

    def _multiply_weights(self, items: list[Item]) -> None:
        """R W, all rows that meet a weight in one product, cut as the server's memory allows."""
        grouped: dict[tuple[str, int, int], list[Item]] = {}
        for item in items:
            assert isinstance(item.need, ProjectNeed)
            grouped.setdefault((item.need.weight, item.need.inner, item.need.outer), []).append(item)
        for (name, inner, outer), group in grouped.items():
            masks = [item.words["mask"] for item in group] if self._desk.is_client else []
            self._add_products("weights", masks, self._weight(name), (inner, outer), [item.words["product"] for item in group])

    def _weight(self, name: str) -> Words | None:
        return None if self._weights is None else self._weights[name].astype(np.int64).view(np.uint64)

    def _add_products(self, key: str, masks: Sequence[Words], weight: Words | None, sizes: tuple[int, int], to: Sequence[Words]) -> None:
        """Adds this party's shares of several matrices of the client's (`masks`, empty at the server), each times one (inner, outer) of the
        server's, to as many arrays.

        Their rows are in one product, cut as the server's memory allows.
        """
        left = np.concatenate([mask.astype(np.uint64) for mask in masks]) if self._desk.is_client else None
        (inner, outer), rows = sizes, sum(map(len, to))
        shares, cut, at = np.zeros((rows, outer), np.uint64), product_cut(rows, inner, outer, self._encoded_bytes), 0
        for top in range(0, rows, cut.rows):
            for low in range(0, inner, cut.columns):
                across, down = slice(top, min(top + cut.rows, rows)), slice(low, min(low + cut.columns, inner))
                height, length = across.stop - top, down.stop - low
                client = (height, length) if left is None else np.ascontiguousarray(left[across, down])
                server = (length, outer) if weight is None else np.ascontiguousarray(weight[down])
                shares[across] += self._private_product(key, client, server, lambda r, w: r @ w)
                self._did(height * length * outer)
        for product in to:
            product += shares[at : at + len(product)].astype(product.dtype)
            at += len(product)

    def _look_up(self, items: list[Item]) -> None:
        """R_b W_b of every bucket, the slots of all answers in one product, and C S of every answer."""
        grouped: dict[LookUpNeed, list[Item]] = {}
        for item in items:
            assert isinstance(item.need, LookUpNeed)
            grouped.setdefault(item.need, []).append(item)
        for need, group in grouped.items():
            table, slots, columns = self._weight(need.weight), need.slots, need.dealt.columns
            for bucket, ids in enumerate(bucket_ids(need.dealt)):
                masks = [item.words["mask"][bucket] for item in group] if self._desk.is_client else []
                # A bucket with fewer ids than the fullest one has zeros for the rest.
                rows = None if table is None else np.pad(table[ids], ((0, columns - len(ids)), (0, 0)))
                products = [item.words["product"][bucket * slots : (bucket + 1) * slots] for item in group]
                self._add_products("look up", masks, rows, (columns, need.width), products)
            for item in group:
                masks = [item.words["choice"]] if self._desk.is_client else []
                hidden = None if self._desk.is_client else item.words["hidden"].astype(np.uint64)
                self._add_products("choose", masks, hidden, (need.dealt.places, need.width), [item.words["chosen"]])

    def _multiply_caches(self, items: list[Item]) -> None:
        """A B^T or A B for every pass of an answer that reads a cache: one product a head for the prompt, and one for all further tokens.

        With the prompt's rows in the same product the engine's tiles fit worse: 129 x 64 x 129 moves twice what 128 x 64 x 128 and
        1 x 64 x 129 do together.
        """
        grouped: dict[str, list[Item]] = {}
        for item in items:
            assert isinstance(item.need, AttendNeed)
            grouped.setdefault(item.need.cache, []).append(item)
        for group in grouped.values():
            right = np.concatenate([item.words["right"] for item in group], 1)
            for part in (group[:1], group[1:]):
                if part:
                    self._multiply_cache(part, right)

    def _multiply_cache(self, items: list[Item], right: Words) -> None:
        """The same for some passes of one cache; `right` (H, n, E) has at least the rows that they read."""
        needs = [item.need for item in items if isinstance(item.need, AttendNeed)]
        keys, last = needs[0].side == "keys", needs[-1].opened
        right, lefts = right[:, :last], [item.words["left"] for item in items]
        if keys:
            left, right = np.concatenate(lefts, 1), right.transpose(0, 2, 1)
        else:
            left = np.concatenate([np.pad(each, ((0, 0), (0, 0), (0, last - each.shape[2]))) for each in lefts], 1)
        (shares,) = self._desk.program("attend", lambda a, b: a @ b, [left, np.ascontiguousarray(right)], whole=True)
        self._did(ATTEND_WORK * sum(need.heads * need.rows * need.opened * need.width for need in needs))
        at = 0
        for item, need in zip(items, needs, strict=True):
            rows = shares[:, at : at + need.rows]
            item.words["product"] += rows[:, :, : need.opened] if keys else rows
            at += need.rows


def draw_item(need: Need, source: MaskSource, client: bool) -> Item:
    """A party's masks for one need, the next of `source`, and zeros where its shares of products will be."""
    fresh = source.words

    def room(*shape: int) -> Words:
        return np.zeros(shape, np.uint64)

    match need:
        case ProjectNeed(_, rows, inner, outer, ring_bits):
            words = {"product": room(rows, outer)}
            if client:
                mask = fresh((rows, inner))
                words["mask"] = mask if ring_bits == 64 else mask.astype(np.uint32)
        case LookUpNeed(rows=rows, width=width):
            places = need.dealt.places
            words = {"product": room(places, width).astype(np.uint32), "chosen": room(rows, width).astype(np.uint32)}
            if client:
                words["mask"] = fresh((need.buckets, need.slots, need.dealt.columns)).astype(np.uint32)
                words["choice"] = fresh((rows, places)).astype(np.uint32)
            else:
                words["hidden"] = fresh((places, width)).astype(np.uint32)
        case ScaleNeed(heads, rows, width):
            words = {"mask": fresh((heads, rows, width if client else 1)), "product": room(heads, rows, width)}
        case AttendNeed(_, side, heads, rows, width, _, new):
            left = fresh((heads, rows, need.left_width))
            if side == "values" and need.triangle:
                left *= np.tril(np.ones((rows, need.left_width), np.uint64))
            product = room(heads, rows, need.opened if side == "keys" else width)
            words = {"left": left, "right": fresh((heads, new, width)), "product": product}
        case SquareNeed(elements):
            words = {"mask": fresh((elements,)), "product": room(elements)}
        case ScaleRowsNeed(rows, width):
            words = {"rows": fresh((rows, width)), "factors": fresh((rows,)), "product": room(rows, width)}
        case CentreNeed(rows, width):
            words = {"rows": fresh((rows, width)), "factors": fresh((rows,)), "product": room(rows, width), "lengths": room(rows)}
        case MultiplyNeed(elements):
            words = {"left": fresh((elements,)), "right": fresh((elements,)), "product": room(elements)}
    return Item(need, words)
