"""What it costs that the client opens every connection: engines linked directly, and through the server's one port, side by side.

    python benchmarks/tunnel.py --write      # results/tunnel.json, and the table of docs/operate.md

direct: two workers whose engines connect to each other, as machines could that can reach one another. tunnel: `hushlm serve` and a
`Client`, whose engines' links go through connections of the client. The model, the prompt and the engines' own TLS are the same; a relay
emulates the networks. Bytes are the engines' own count. CPU of the forwarding is that of the two processes which forward (the
server's that listens, and the client's own), from the question to the end; it holds the handshake and the control channel too. The
first round of each is left out, the rounds alternate, and the medians are written.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil

from hushlm.calibration.relay import Link, Relay, SwitchableLink, free_ports, relayed
from hushlm.cost.network import LAN, WAN, Network
from hushlm.files import write_atomic
from hushlm.private.client.client import Client, ClientSettings
from hushlm.private.client.prompts import load_tokenizer
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.session.process import Order, PeerOrder, WorkerEvent, WorkerProcess, start_worker
from load import READY, make_export
from operate_page import TUNNEL, write_page

PROMPT = "12 alpha beta ga"
CONNECT_SECONDS, SILENT_SECONDS = 120.0, 600.0


@dataclass(frozen=True)
class Run:
    """One answer: bytes of both directions, seconds of the engines' set-up and of the tokens, and CPU seconds of the forwarding."""

    bytes: int
    set_up_seconds: float
    query_seconds: float
    forwarding_seconds: float = 0.0


@contextlib.contextmanager
def between(network: Network | None, targets: list[int]) -> Iterator[list[int]]:
    """Ports that lead to these through a network: the first from the client's side, the second from the server's."""
    if network is None:
        yield targets
        return
    ports = free_ports(len(targets))
    relays = tuple(Relay(port, target) for port, target in zip(ports, targets, strict=True))
    with relayed(relays, SwitchableLink(Link(network.round_trip_seconds, network.bits_per_second))):
        yield ports


async def _events(worker: WorkerProcess) -> list[WorkerEvent]:
    events = [await worker.next()]
    while events[-1].event not in ("finished", "failed"):
        events.append(await worker.next())
    assert events[-1].event == "finished", events[-1].error
    return events


async def _direct(export: Path, tokens: int, ports: list[int], ways: list[int]) -> Run:
    prompt = load_tokenizer(export / "client", load_description(export / "client")).encode(PROMPT).ids
    async with contextlib.AsyncExitStack() as stack:
        workers = []
        for role, own, peer in (("client", ports[0], ways[0]), ("server", ports[1], ways[1])):
            worker, scratch = await stack.enter_async_context(start_worker())
            order = {
                "role": role,
                "folder": export / role,
                "scratch": scratch,
                "own_address": f"127.0.0.1:{own}",
                "peer_address": f"127.0.0.1:{peer}",
                "fingerprint": load_description(export / role).fingerprint,
                "prompt_length": len(prompt),
                "new_tokens": tokens,
                "reveal": RevealPolicy(),
                "connect_seconds": CONNECT_SECONDS,
                "silent_seconds": SILENT_SECONDS,
            }
            worker.send(Order.model_validate(order))
            workers.append(worker)
        client, server = [(await worker.next()).certificate for worker in workers]
        workers[0].send(PeerOrder(certificate=str(server), prompt=prompt))
        workers[1].send(PeerOrder(certificate=str(client)))
        events, _ = await asyncio.gather(*map(_events, workers))
    moved = {kind: [event.traffic for event in events if event.event == kind and event.traffic] for kind in ("ready", "token")}
    total = sum(part.sent_bytes + part.received_bytes for parts in moved.values() for part in parts)
    return Run(total, *(sum(part.seconds for part in moved[kind]) for kind in ("ready", "token")))


def direct(export: Path, tokens: int, network: Network | None) -> Run:
    """Both engines connect to the other."""
    client, server = free_ports(2)
    with between(network, [server, client]) as ways:
        return asyncio.run(_direct(export, tokens, [client, server], ways))


def tunnel(export: Path, keys: Path, tokens: int, network: Network | None) -> Run:
    """The service."""
    command = [sys.executable, "-m", "hushlm", "serve", str(export / "server"), "--keys", str(keys), "--listen", "127.0.0.1:0"]
    options = ["--silent-seconds", str(SILENT_SECONDS), "--connect-seconds", str(CONNECT_SECONDS)]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        ready = READY.search(process.stdout.readline())
        assert ready, "the server did not start"
        with between(network, [int(ready[1].rpartition(":")[2])]) as [port]:
            # Transfers come from stocks, as in the direct run.
            settings = ClientSettings(connect_seconds=CONNECT_SECONDS, silent_seconds=SILENT_SECONDS, alive_seconds=60, network=WAN)
            client = Client(export / "client", f"127.0.0.1:{port}", keys, settings=settings)
            listener = psutil.Process(process.pid)
            before = sum(listener.cpu_times()[:2]) + time.process_time()
            answer = client.ask(PROMPT, tokens)
            used = sum(listener.cpu_times()[:2]) + time.process_time() - before
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
    moved = answer.set_up.total_bytes + answer.query.total_bytes
    return Run(moved, answer.set_up.seconds, answer.query.seconds, used)


def measure(export: Path, keys: Path, tokens: int, network: Network | None, rounds: int) -> Iterator[dict[str, object]]:
    """Two rows."""
    runs: dict[str, list[Run]] = {"direct": [], "tunnel": []}
    load = os.getloadavg()[0]
    for _ in range(rounds + 1):
        runs["direct"].append(direct(export, tokens, network))
        runs["tunnel"].append(tunnel(export, keys, tokens, network))
    for way, all_of_them in runs.items():
        kept = all_of_them[1:]
        yield {
            "network": "loopback" if network is None else str(network),
            "way": way,
            "bytes": round(median(run.bytes for run in kept)),
            "set_up_seconds": round(median(run.set_up_seconds for run in kept), 2),
            "query_seconds": round(median(run.query_seconds for run in kept), 2),
            "forwarding_cpu_seconds": round(median(run.forwarding_seconds for run in kept), 2),
            "load_average_before": round(load, 1),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="of each, after one that is left out")
    parser.add_argument("--tokens", type=int, default=2, help="of each answer")
    parser.add_argument("--networks", nargs="+", choices=("loopback", "lan", "wan"), default=["loopback", "lan", "wan"])
    parser.add_argument("--write", action="store_true", help="results/tunnel.json, whose other networks stay, and docs/operate.md")
    options = parser.parse_args()
    networks = {"loopback": None, "lan": LAN, "wan": WAN}
    rows = []
    with tempfile.TemporaryDirectory(prefix="hushlm-tunnel-") as folder:
        export, keys = make_export(Path(folder))
        for name in options.networks:
            for row in measure(export, keys, options.tokens, networks[name], options.rounds):
                rows.append(row)
                print(json.dumps(row), flush=True)
    if options.write:
        settings = {"cores": os.cpu_count(), "tokens": options.tokens, "rounds": options.rounds}
        before = json.loads(TUNNEL.read_text()) if TUNNEL.exists() else {"rows": []}
        if {name: value for name, value in before.items() if name != "rows"} == settings:
            measured = {row["network"] for row in rows}
            rows = [row for row in before["rows"] if row["network"] not in measured] + rows
        document = settings | {"rows": rows}
        write_atomic(TUNNEL, json.dumps(document, indent=1) + "\n")
        write_page()


if __name__ == "__main__":
    main()
