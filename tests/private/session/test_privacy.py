"""What each party receives, writes and holds is searched for the other's secrets; every search is shown to find what is there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("spu")

from tests.private.models import SMALL
from tests.private.pair import Outcome, run_pair
from tests.private.program.test_simulate import simulated
from tests.private.service import Relay, find_in_memory, serving, workers_of

from hushlm.private.client.client import Client, ClientSettings, Progress
from hushlm.private.engine import EngineSettings, Party
from hushlm.private.program.backend import EngineBackend
from hushlm.private.program.description import RevealPolicy, load_description, load_server_weights
from hushlm.private.session.process import WorkerEvent
from hushlm.training import Checkpoint

CANARIES = ("Qv7#hush*Kx2?mW", "zJ4!tell@Ny9%bP")
"""Prompts of one length that occur nowhere else."""

ROW = 32
"""Consecutive weights that make a needle."""


def prompt_needles(text: str, tokens: list[int], vocabulary: int, fraction_bits: int) -> dict[str, bytes]:
    """The forms in which a prompt could lie in memory or go over a wire. One-hot rows come in twos: one alone is in any unit matrix."""
    ids = np.array(tokens)
    one_hot = np.eye(vocabulary)[ids[:2]]
    return {
        "text": text.encode(),
        "text in UTF-16": text.encode("utf-16-le"),
        "JSON": ",".join(map(str, tokens)).encode(),
        "JSON with blanks": ", ".join(map(str, tokens)).encode(),
        **{f"ids in {kind}": ids.astype(kind).tobytes() for kind in ("int32", "int64", "float32", "float64", "uint16")},
        **{f"one-hot in {kind}": one_hot.astype(kind).tobytes() for kind in ("int32", "int64", "float32", "float64", "uint8")},
        "one-hot in the ring": (one_hot * 2**fraction_bits).astype("int64").tobytes(),
    }


def weight_needles(weights: dict[str, np.ndarray], fraction_bits: int) -> dict[str, bytes]:
    """Of every tensor with enough different values: a stretch of it, as floats and as fixed-point numbers of the ring."""
    needles: dict[str, bytes] = {}
    for name, tensor in weights.items():
        row = tensor.reshape(-1)[:ROW].astype("float64")
        if len(np.unique(row)) < ROW // 2:
            continue
        ring = row * 2**fraction_bits
        forms = {
            "float32": row.astype("float32"),
            "float64": row,
            "truncated": ring.astype("int64"),
            "rounded": np.rint(ring).astype("int64"),
        }
        needles |= {f"{name} {form}": array.tobytes() for form, array in forms.items()}
    return needles


class Crowded:
    """A backend whose client has put tokens into the padding, which no row before them may see."""

    def __init__(self, backend: EngineBackend, length: int, tokens: list[int]) -> None:
        self._backend, self._length, self._tokens = backend, length, tokens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def put(self, name: str, owner: Party, shape: tuple[int, ...], value: np.ndarray | None) -> None:
        if name == "one_hot" and value is not None and shape[0] > 1:
            value = value.copy()
            value[np.arange(self._length, self._length + len(self._tokens)), self._tokens] = 1
        self._backend.put(name, owner, shape, value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SM2+R", "SM+LN+G"])
def test_what_comes_later_cannot_change_what_was_answered(name: str) -> None:
    """In the compiled programs and the engine's own arithmetic: the same logits to the last bit, whatever stands after the prompt."""
    tokens = np.random.default_rng(2).integers(0, SMALL.vocabulary, 20).tolist()
    _, generator, backend = simulated(name)
    answers = []
    for prompt, later in ((tokens, []), (tokens, tokens[:9]), (tokens, tokens[9:18]), ([*tokens[:18], tokens[0], tokens[19]], [])):
        generator._backend = Crowded(backend, len(prompt), later)
        [answer] = generator.generate(prompt, len(prompt), 1, RevealPolicy(kind="logits"))
        assert answer.logits is not None
        answers.append(answer.logits)
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])
    # And what comes before can.
    assert np.abs(answers[0] - answers[3]).max() > 0.01 * answers[0].std()


def occurring(data: bytes, needles: dict[str, bytes]) -> set[str]:
    return {name for name, needle in needles.items() if needle in data}


@pytest.fixture(scope="module")
def secrets(export_folder: Path, served_checkpoint: Checkpoint) -> tuple[list[dict[str, bytes]], dict[str, bytes]]:
    """Needles of each canary prompt, and of the weights."""
    description = load_description(export_folder / "server")
    bits = description.engine.fraction_bits
    prompts = [prompt_needles(text, served_checkpoint.tokenizer.encode(text).ids, description.shape.vocabulary, bits) for text in CANARIES]
    weights = weight_needles(load_server_weights(export_folder / "server"), bits)
    assert len(weights) >= 4 * 8
    return prompts, weights


def test_a_party_s_share_of_what_the_other_owns_is_a_placeholder() -> None:
    """And without the engine's flag one process would hold both shares, which add up to the secret."""
    spu = pytest.importorskip("spu")
    from spu import libspu

    value = np.random.default_rng(0).normal(size=(4, 8)).astype("float32")
    fixed = {
        (value.astype("float64") * 2**18).astype("int64").tobytes(),
        np.rint(value.astype("float64") * 2**18).astype("int64").tobytes(),
    }
    for owner in Party:
        for private in (True, False):
            settings = json.loads(EngineSettings().to_json())
            assert settings["experimental_enable_colocated_optimization"] is True
            settings["experimental_enable_colocated_optimization"] = private
            config = libspu.RuntimeConfig()
            assert config.ParseFromJsonString(json.dumps(settings))
            shares = spu.Io(2, config).make_shares(value, libspu.Visibility.VIS_SECRET, int(owner))
            own, others = (b"".join(shares[party].share_chunks) for party in (owner, owner.other))
            size = value.size * 8
            if private:
                assert any(form in own for form in fixed)
                assert others.endswith(bytes(size))
            else:
                assert not any(form in own for form in fixed)
                total = np.frombuffer(own[-size:], "int64") + np.frombuffer(others[-size:], "int64")
                assert total.tobytes() in fixed


BLOCK_BYTES = 32
LARGEST_SHARED_SHARE = 0.02
"""Of the blocks of one transcript that stand in another: framing does. Ciphertexts under one key, or of one randomness, would."""

LARGEST_DISTANCE = 0.01
"""Total variation between the byte values of two transcripts; chance alone gives about 0.003 for 10 MB of uniform bytes."""


def distance(one: bytes, other: bytes) -> float:
    """Total variation between the distributions of two streams' byte values: 0 if they are the same, 1 if they have none in common."""
    counts = [np.bincount(np.frombuffer(data, np.uint8), minlength=256) / len(data) for data in (one, other)]
    return float(np.abs(counts[0] - counts[1]).sum() / 2)


def shared_share(one: bytes, other: bytes) -> float:
    """Share of the blocks of `one`, cut at multiples of their size, that occur anywhere in a sample of `other`, at any offset."""
    sample = other[: 1 << 20]
    known = {sample[start : start + BLOCK_BYTES] for start in range(len(sample) - BLOCK_BYTES + 1)}
    blocks = [one[start : start + BLOCK_BYTES] for start in range(0, len(one) - BLOCK_BYTES + 1, BLOCK_BYTES)]
    return sum(block in known for block in blocks) / len(blocks)


def assert_indistinguishable(one: bytes, other: bytes) -> None:
    """By the two simple distinguishers above."""
    assert distance(one, other) < LARGEST_DISTANCE
    assert shared_share(one, other) < LARGEST_SHARED_SHARE


def test_the_distinguishers_tell_plain_transcripts_apart() -> None:
    """Of two prompts in the clear, of one ciphertext sent twice, and not of uniform bytes."""
    generator = np.random.default_rng(0)
    one, other = generator.bytes(4_000_000), generator.bytes(4_000_000)
    assert_indistinguishable(one, other)
    assert shared_share(one, one) > 0.2
    assert shared_share(one, other[:500_000] + one[:500_000]) > 10 * LARGEST_SHARED_SHARE / 2
    texts = [" ".join(CANARIES[which] for _ in range(1000)).encode() for which in range(2)]
    assert distance(*texts) > 10 * LARGEST_DISTANCE


def opening(events: list[WorkerEvent]) -> tuple[int, int]:
    """Bytes that a party sent and received while the answer was opened: those of the token without those of its steps."""
    [token] = [event.traffic for event in events if event.event == "token"]
    steps = [event.traffic for event in events if event.event == "step"]
    assert token is not None
    sent = token.sent_bytes - sum(step.sent_bytes for step in steps if step)
    return sent, token.received_bytes - sum(step.received_bytes for step in steps if step)


def moved(outcome: Outcome) -> list[tuple[str, int, int, int]]:
    return [
        (event.name or event.event, event.traffic.sent_bytes, event.traffic.received_bytes, event.traffic.sent_messages)
        for event in outcome.client
        if event.traffic is not None
    ]


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(400)
def test_no_secret_goes_over_the_wire_or_into_a_file(
    export_folder: Path, served_checkpoint: Checkpoint, secrets: tuple[list[dict[str, bytes]], dict[str, bytes]]
) -> None:
    """The engine's own bytes, without TLS around them, of two prompts of one length; and their sizes tell them not apart."""
    prompts, weights = secrets
    sizes, transcripts = [], []
    for text, prompt in zip(CANARIES, prompts, strict=True):
        tokens = served_checkpoint.tokenizer.encode(text).ids
        with Relay() as to_server, Relay() as to_client:
            outcome = asyncio.run(run_pair(export_folder, tokens, to_server, to_client, tls=False))
            client_to_server = bytes(to_server.forward + to_client.backward)
            server_to_client = bytes(to_server.backward + to_client.forward)
        assert outcome.client[-1].event == outcome.server[-1].event == "finished", (outcome.client[-1], outcome.server[-1])
        # What was searched is all there was: the engine's own count of payload, and a little framing.
        traffic = [event.traffic for event in outcome.client if event.event in ("ready", "token") and event.traffic]
        for seen, counted in (
            (client_to_server, sum(part.sent_bytes for part in traffic)),
            (server_to_client, sum(part.received_bytes for part in traffic)),
        ):
            assert counted < len(seen) < 1.1 * counted + 100_000
        said_by_server = "\n".join(event.model_dump_json() for event in outcome.server).encode()
        said_by_client = "\n".join(event.model_dump_json() for event in outcome.client).encode()
        for kept in (client_to_server, said_by_server, outcome.server_files):
            assert occurring(kept, prompt) == set()
        for kept in (server_to_client, said_by_client, outcome.client_files):
            assert occurring(kept, weights) == set()
        assert len(outcome.server_files) > 1000
        [opened] = [event for event in outcome.client if event.event == "token"]
        [closed] = [event for event in outcome.server if event.event == "token"]
        assert opened.token == served_checkpoint.model.greedy(tokens, 1)[0]
        assert closed.token is closed.top is closed.logits is None
        # The opening goes one way: a share for the client, and none for the server.
        assert opening(outcome.client)[0] == opening(outcome.server)[1] == 0
        assert opening(outcome.client)[1] == opening(outcome.server)[0] > 0
        sizes.append(moved(outcome))
        transcripts.append((client_to_server, server_to_client))
    for one, other in zip(*transcripts, strict=True):
        assert_indistinguishable(one, other)
    # The engine compresses its ciphertexts, so that sizes vary with its dice (as much between runs of one prompt); messages do not.
    for first, second in zip(*sizes, strict=True):
        assert (first[0], first[3]) == (second[0], second[3])
        for a, b in ((first[1], second[1]), (first[2], second[2])):
            assert abs(a - b) < 2000 + 0.001 * a


def test_the_searches_find_what_is_there(
    export_folder: Path, served_checkpoint: Checkpoint, secrets: tuple[list[dict[str, bytes]], dict[str, bytes]]
) -> None:
    """A relay, a one-hot matrix and an exported file, searched for what they do hold."""
    prompts, weights = secrets
    tokens = np.array(served_checkpoint.tokenizer.encode(CANARIES[0]).ids)
    fixed = (np.eye(256)[tokens] * 2**18).astype("int64").tobytes()
    assert occurring(fixed, prompts[0]) == {"one-hot in the ring"}
    assert occurring(fixed, prompts[1]) == set()
    exported = (export_folder / "server" / "weights.safetensors").read_bytes()
    assert {name for name in occurring(exported, weights) if name.endswith("float32")} == {
        name for name in weights if name.endswith("float32")
    }
    assert occurring((export_folder / "client" / "program.json").read_bytes(), weights) == set()


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(900)
def test_no_secret_is_in_the_other_s_memory(
    export_folder: Path, key_folder: Path, tmp_path: Path, secrets: tuple[list[dict[str, bytes]], dict[str, bytes]]
) -> None:
    """The real service, over TLS: both workers are stopped in the middle of the computation and looked into, and the server afterwards."""
    prompts, weights = secrets
    # A few weights are enough for a gigabyte of memory; on the wire and in files all are searched for.
    few = {name: needle for name, needle in weights.items() if name.startswith(("embedding", "head", "0.query_key_value"))}
    own = {name: needle for name, needle in few.items() if name.startswith("head")} | {
        "one-hot in the ring": prompts[0]["one-hot in the ring"]
    }
    needles = {"server": prompts[0] | own, "client": few | own, "listener": prompts[0] | weights}
    looked: dict[str, set[str]] = {}
    shown: dict[str, bytes] = {}
    # The look takes minutes where others work beside it, and to the engine a stopped peer is a silent one.
    patient = ClientSettings(silent_seconds=1000)
    with serving(export_folder, key_folder, tmp_path / "server.log", "--verbose", "--silent-seconds", "1000") as running:

        def look(progress: Progress) -> None:
            if progress.phase == "query" and progress.layer == 2 and not looked:
                [server], [client] = running.workers(), workers_of(os.getpid())
                for process in (server, client):
                    os.kill(process, signal.SIGSTOP)
                try:
                    for name, process in (("server", server), ("client", client), ("listener", running.process.pid)):
                        looked[name] = find_in_memory(process, needles[name])
                        folder = Path(f"/proc/{process}")
                        shown[name] = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
                finally:
                    for process in (server, client):
                        os.kill(process, signal.SIGCONT)

        answer = Client(export_folder / "client", running.address, key_folder, settings=patient).ask(CANARIES[0], 1, on_progress=look)
        assert len(answer.tokens) == 1
        looked["listener at the end"] = find_in_memory(running.process.pid, needles["listener"])
        log = running.log.read_bytes()
    assert not looked["server"] & prompts[0].keys()
    assert not looked["client"] & weights.keys()
    assert looked["listener"] == looked["listener at the end"] == set()
    # The searches work: each worker's own secret is found in its own memory, in the engine's ring too.
    assert "one-hot in the ring" in looked["client"]
    assert any(name.endswith(("truncated", "rounded")) for name in looked["server"])
    for name, said in (*shown.items(), ("log", log)):
        assert occurring(said, prompts[0] | weights) == set(), name
