"""Messages, round trips and bytes of prepared answers by network, by formula; or with --relay the round trips of single calls, timed.

    python benchmarks/prepared_rounds.py [--tokens 128] [--rows 4]
    python benchmarks/prepared_rounds.py --relay            # two processes and a relay of 200 ms

In pairs LayerNorm's inverse root is the engine's own program: 59 messages each way and 30.2 round trips of 1,600 numbers, as --relay
times it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np

from hushlm.architectures import parse
from hushlm.calibration.both_parties import run_both
from hushlm.calibration.relay import Link
from hushlm.cost import LAN, WAN
from hushlm.cost.inverse_root import ENGINE_ROOT
from hushlm.cost.network import Network
from hushlm.cost.prepared.online_bytes import online_bytes
from hushlm.plan import Plan, Reveal, decode_plan, prefill_plan, whole_buckets
from hushlm.private.engine import Engine, EngineSettings
from hushlm.private.prepared.desk import Desk
from hushlm.recommended import RECOMMENDED
from hushlm.shapes import GPT2_SMALL

ROOT_MESSAGES = 118
ROUND_TRIP_SECONDS, NUMBERS = 0.2, 1600


def timed(engine: Engine) -> list[tuple[str, int, int, float]]:
    """Name, messages sent and received, and seconds of single calls."""
    import jax
    import jax.numpy as jnp

    desk, words = Desk(engine), np.full(NUMBERS, 1 << 20, np.uint64)
    (bits,) = desk.small("negative", lambda v: v < 0, [words])
    calls = {
        "comparison, 32 bits": lambda: desk.small("negative", lambda v: v < 0, [words]),
        "larger of two, 32 bits": lambda: desk.small("larger", lambda v: jnp.maximum(v, 5), [words]),
        "AND of two comparisons": lambda: desk.small("and", lambda v: (v < 0) & (v < 5), [words]),
        "selection, 64 bits": lambda: desk.where(bits, words),
        "truncation": lambda: desk.truncate(words),
        "opening": lambda: desk.link.open(words),
        "inverse root": lambda: desk.program("root", lambda v: jax.lax.rsqrt(v * (1 / 64) + 1e-5), [words]),
    }
    found = []
    for name, call in calls.items():
        call()
        desk.take_traffic()
        start = time.perf_counter()
        call()
        seconds, moved = time.perf_counter() - start, desk.take_traffic()
        found.append((name, moved.sent_messages, moved.received_messages, seconds))
    return found


def of_pass(plan: Plan, opened: dict[str, int], network: Network | None) -> str:
    """Messages of both parties, round trips and MB of a pass."""
    steps = online_bytes(plan, opened, network=network).values()
    roots = [step.inverse_roots for step in steps if step.inverse_roots]
    messages = sum(step.client_messages + step.server_messages for step in steps) + ROOT_MESSAGES * len(roots)
    rounds = sum(step.rounds for step in steps) + ENGINE_ROOT.rounds * len(roots)
    return f"{messages:8,d} {rounds:8,.0f} {(sum(step.total for step in steps) + ENGINE_ROOT.bytes * sum(roots)) / 1e6:9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--relay", action="store_true")
    a = parser.parse_args()
    if a.relay:
        client, _ = run_both(timed, (), EngineSettings(), Link(ROUND_TRIP_SECONDS, 1e9))
        for name, sent, received, seconds in client:
            print(f"{name:24s} {sent:4d} sent {received:4d} received {seconds / ROUND_TRIP_SECONDS:6.1f} round trips")
        return
    hush = RECOMMENDED["Hush-M"]
    print(f"{'':12s} {'':6s} {'pass':16s} messages   rounds        MB")
    for name, architecture, shape in (
        ("SM2+ScFuFFN", "SM2+ScFuFFN", GPT2_SMALL),
        ("SM2+R", "SM2+R", GPT2_SMALL),
        (hush.name, hush.architecture, hush.shape),
    ):
        keys, parsed = whole_buckets(a.tokens + a.rows), parse(architecture)
        longer, reveal = replace(shape, context=keys), Reveal(shape.vocabulary, "logits")
        for network in (None, LAN, WAN):
            # Without a network the private arg max is not given by the formula: of all forms the logits are opened.
            opened: dict[str, int] = {}
            label = f"{name:12s} {network.name if network else 'pairs':6s}"
            print(label, f"{'first token':16s}", of_pass(prefill_plan(parsed, longer, a.tokens, reveal), opened, network))
            for rows in (1, a.rows):
                line = of_pass(decode_plan(parsed, longer, keys, reveal, rows=rows), dict(opened), network)
                print(label, f"further, {rows} rows   ", line)


if __name__ == "__main__":
    main()
