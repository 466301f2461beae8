"""Test values as shares between two real parties, and back."""

from __future__ import annotations

from hushlm.private.engine.shares import Words
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.masks import MaskSource


def shared(desk: Desk, words: Words) -> Words:
    """This party's words of a value that both parties of a test know: the client draws its words and tells the server."""
    if desk.is_client:
        mine = MaskSource().words(words.shape)
        desk.link.send(mine)
        return mine
    return words - desk.link.receive(words.shape)


def opened(desk: Desk, words: Words) -> Words:
    """The value, at both parties."""
    return desk.link.open(words)[0]
