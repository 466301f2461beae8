"""Products online: each takes its item of material, opens what the item's masks hide, multiplies locally and truncates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hushlm.plan.needs import CentreNeed, MultiplyNeed, ProjectNeed, ScaleNeed, ScaleRowsNeed, SquareNeed
from hushlm.private.engine.shares import Words
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.material import Material
from hushlm.private.prepared.values import ServerValue

__all__ = ["centred_rows", "multiply", "project", "scale_by_server", "scale_rows", "square", "whole_product"]


def _second(desk: Desk, mask: Words, opened: Words) -> Words:
    """What e = x - A is multiplied with: B, to which the client adds f, so that e f is counted once."""
    return mask + opened if desk.is_client else mask


def project(
    desk: Desk,
    material: Material,
    need: ProjectNeed,
    x_TI: Words,
    weight: ServerValue,
    bias: ServerValue,
    columns: np.ndarray | None = None,
) -> Words:
    """x W + b: only the client sends, (T, I) words.

    Args:
        columns: which columns of the prepared product W has, if it has not all of them.
    """
    with material.take(need) as item:
        prepared = item["product"]
        if need.outer < prepared.shape[1]:
            assert columns is not None
            prepared = prepared[:, columns]
        if desk.is_client:
            desk.link.send(x_TI - item["mask"])
            product = prepared.copy()
        else:
            masked = desk.link.receive(x_TI.shape) + x_TI
            product = weight.matrix().product(masked) + prepared + bias.words(2 * desk.fraction_bits)
    return desk.truncate(product)


def scale_by_server(desk: Desk, material: Material, need: ScaleNeed, x_HTE: Words, factors: ServerValue) -> Words:
    """x s with numbers of the server's, one a row: the client sends its words of x less R, the server s - B.

    (x - R) s is the server's own; R s = R (s - B) + R B.
    """
    with material.take(need) as item:
        if desk.is_client:
            desk.link.send(x_HTE - item["mask"])
            product = item["mask"] * desk.link.receive((need.heads, need.rows, 1)) + item["product"]
        else:
            own = factors.words(desk.fraction_bits)
            desk.link.send(own - item["mask"])
            product = (desk.link.receive(x_HTE.shape) + x_HTE) * own + item["product"]
    return desk.truncate(product)


def square(desk: Desk, material: Material, need: SquareNeed, x: Words) -> Words:
    """x x, elementwise: with e = x - A opened, A A + e (2 A + e)."""
    with material.take(need) as item:
        mask = item["mask"].reshape(x.shape)
        (e,) = desk.link.open(x - mask)
        both = _second(desk, mask + mask, e)
        product = item["product"].reshape(x.shape) + e * both
    return desk.truncate(product)


def multiply(desk: Desk, material: Material, need: MultiplyNeed, x: Words, y: Words) -> Words:
    """x y, elementwise."""
    return desk.truncate(whole_product(desk, material, need, x, y))


def whole_product(desk: Desk, material: Material, need: MultiplyNeed, x: Words, y: Words) -> Words:
    """x y, elementwise, with twice the fraction bits."""
    with material.take(need) as item:
        a, b = item["left"].reshape(x.shape), item["right"].reshape(x.shape)
        e, f = desk.link.open(x - a, y - b)
        return item["product"].reshape(x.shape) + e * _second(desk, b, f) + a * f


def scale_rows(desk: Desk, material: Material, need: ScaleRowsNeed, x_RN: Words, factors_R: Words) -> Words:
    """Each row times its factor."""
    with material.take(need) as item:
        a, b = item["rows"], item["factors"]
        e, f = desk.link.open(x_RN - a, factors_R - b)
        product = item["product"] + e * _second(desk, b, f)[:, None] + a * f[:, None]
    return desk.truncate(product)


def centred_rows(desk: Desk, material: Material, need: CentreNeed, x_RN: Words, factors: Callable[[Words], Words]) -> Words:
    """Each row times a factor: the rows are opened once for both products.

    Args:
        factors: makes the factors (R,) of the rows' squared lengths (R,), which have twice the fraction bits.
    """
    with material.take(need) as item:
        a, b = item["rows"], item["factors"]
        (e,) = desk.link.open(x_RN - a)
        both = _second(desk, a + a, e)
        lengths = item["lengths"] + (e * both).sum(-1, dtype=np.uint64)
        (f,) = desk.link.open(factors(lengths) - b)
        product = item["product"] + e * _second(desk, b, f)[:, None] + a * f[:, None]
    return desk.truncate(product)
