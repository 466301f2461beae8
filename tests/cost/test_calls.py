"""Calls of primitives as they were counted between two processes."""

from __future__ import annotations

import pytest

from hushlm.cost.calls import CALLS, Call, Kind, Sent, call_sent

COUNTED: list[tuple[Kind, int, Sent]] = [
    ("compare", 100, Sent(3464, 664, 13, 13)),
    ("compare", 1602, Sent(54912, 10056, 13, 13)),
    ("compare", 2050, Sent(70304, 12904, 26, 26)),
    ("compare", 5000, Sent(171328, 31328, 26, 26)),
    ("compare", 40000, Sent(1370000, 250000, 26, 26)),
    # Counted with the two comparisons whose bits it takes, and these subtracted.
    ("and", 801, Sent(208, 208, 2, 2)),
    ("and", 20000, Sent(5008, 5008, 4, 4)),
    ("select", 100, Sent(416, 416, 2, 2)),
    ("select", 2050, Sent(8458, 8458, 4, 4)),
    ("select-64", 1602, Sent(13018, 13018, 2, 2)),
    ("select-64", 300000, Sent(2437500, 2437500, 6, 6)),
    ("truncate", 1602, Sent(4808, 202, 1, 1)),
    ("truncate", 300000, Sent(900000, 37500, 2, 2)),
]


@pytest.mark.parametrize(("kind", "elements", "counted"), COUNTED)
def test_what_a_call_sends(kind: Kind, elements: int, counted: Sent) -> None:
    found = call_sent(Call(kind, elements), threads=2, fraction_bits=18)
    assert found == counted
    # What forms are chosen by is the same price, without rounding.
    if elements >= 20000:
        assert found.client_bytes + found.server_bytes == pytest.approx(CALLS[kind].bytes * elements, rel=0.03)
