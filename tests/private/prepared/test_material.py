"""Material is used in order, each item once, and nothing of it is left after use."""

from __future__ import annotations

import numpy as np
import pytest

from hushlm.plan.needs import MultiplyNeed, Need, SquareNeed
from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.material import Item, Material, MaterialError


def made(*needs: Need) -> tuple[Material, list[Item]]:
    source = MaskSource()
    items = [Item(need, {"mask": source.words((8,)), "product": source.words((8,))}) for need in needs]
    return Material(32, 1, bytes(16), items), items


def test_each_item_is_taken_once_and_overwritten() -> None:
    material, items = made(SquareNeed(8), MultiplyNeed(8))
    before = items[0].words["mask"].copy()
    with material.take(SquareNeed(8)) as words:
        assert (words["mask"] == before).all()
        inside = words["mask"]
    assert not inside.any()
    assert not any(words.any() for words in items[0].words.values())
    assert items[1].words["mask"].any()
    with material.take(MultiplyNeed(8)):
        pass
    assert material.items_left == 0
    with pytest.raises(MaterialError, match="has been used"), material.take(SquareNeed(8)):
        pass


def test_another_need_than_the_next_one_is_refused() -> None:
    material, items = made(SquareNeed(8), MultiplyNeed(8))
    with pytest.raises(MaterialError, match="not in step"), material.take(MultiplyNeed(8)):
        pass
    # Nothing was given out, so nothing is lost.
    assert material.items_left == 2
    assert items[0].words["mask"].any()


def test_an_item_whose_use_fails_is_gone_all_the_same() -> None:
    material, items = made(SquareNeed(8))
    with pytest.raises(ZeroDivisionError), material.take(SquareNeed(8)):
        raise ZeroDivisionError
    assert not items[0].words["mask"].any()
    with pytest.raises(MaterialError), material.take(SquareNeed(8)):
        pass


def test_fewer_squares_than_were_prepared_use_up_the_item() -> None:
    material, items = made(SquareNeed(8))
    with pytest.raises(MaterialError), material.take(SquareNeed(9)):
        pass
    with material.take(SquareNeed(3)) as words:
        assert words["mask"].shape == (3,)
    assert not items[0].words["mask"].any()
    assert material.items_left == 0


def test_dropped_material_is_overwritten() -> None:
    material, items = made(SquareNeed(8), MultiplyNeed(8))
    assert material.size_bytes == 4 * 8 * 8
    material.drop()
    assert not any(np.any(words) for item in items for words in item.words.values())
    with pytest.raises(MaterialError), material.take(SquareNeed(8)):
        pass


def test_masks_do_not_get_into_logs() -> None:
    material, items = made(SquareNeed(8))
    for text in (repr(material), repr(items[0])):
        assert "SquareNeed" in text or "Material(" in text
        assert not any(str(word) in text for word in items[0].words["mask"])
