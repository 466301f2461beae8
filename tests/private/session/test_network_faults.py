"""Networks that delay, throttle, drop, duplicate, corrupt, truncate, reset, half-close and fall silent, on both of a session's links.

TLS is on both, so what is changed on the way is noticed and never computed with: a session ends with one sentence or with the right
answer, both sides' workers end, and the next client is served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("spu")

from tests.private.bad_relay import BadRelay, Fault
from tests.private.by_hand import HandMade, hand_made
from tests.private.faults_seen import FaultsSeen, next_is_served
from tests.private.service import PROMPTS, Serving, serving, session_folders, wait_for, workers_of

from hushlm.private.client.client import Client, ClientSettings, Progress
from hushlm.private.client.control_channel import ControlChannel
from hushlm.private.client.retries import Retries
from hushlm.private.keys.certificates import CLIENT
from hushlm.private.session.engine_links import Role, Stream
from hushlm.private.session.messages import SessionError
from hushlm.training import Checkpoint

SILENT_SECONDS = 6.0
ALIVE_SECONDS = 8.0

NOTICED_SECONDS = 14.0
"""From the moment at which a fault can be noticed to the sentence, on two busy cores."""

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every process of this file keeps its session folders."""
    folder = tmp_path_factory.mktemp("network")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", str(folder))
        yield folder


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, scratch: Path) -> Iterator[Serving]:
    options = ("--silent-seconds", str(SILENT_SECONDS), "--connect-seconds", "8")
    with serving(export_folder, key_folder, scratch / "server.log", *options) as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def next_client(server: Serving, export_folder: Path, key_folder: Path, scratch: Path) -> Iterator[HandMade]:
    with hand_made(server.address, export_folder, key_folder, scratch) as client:
        yield client


Ask = Callable[..., tuple[list[int] | None, float]]


@pytest.fixture
def ask(server: Serving, export_folder: Path, key_folder: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """ask(relay, when, fault): a question, through a relay in the engine's link or the control channel's.

    Returns the tokens, or None for an error in one sentence; and the seconds from the fault to the end.
    """

    def run(link: str, relay: BadRelay, when: Callable[[Progress], bool] | None, fault: Fault) -> tuple[list[int] | None, float]:
        address, set_at = server.address, [time.monotonic()]
        if link == "control":
            relay.target, address = server.address, relay.address
        else:
            relay.target = server.address
            lead_links(monkeypatch, key_folder, {"client": relay, "server": relay})
        if when is None:
            relay.fault = fault

        def note(progress: Progress) -> None:
            if when is not None and when(progress) and len(set_at) == 1:
                set_at.append(time.monotonic())
                relay.fault = fault

        settings = ClientSettings(8, 60, 60, SILENT_SECONDS, ALIVE_SECONDS, retries=Retries(0))
        client = Client(export_folder / "client", address, key_folder, settings=settings)
        tokens: list[int] | None = None
        sentence = "none."
        try:
            tokens = list(client.ask(PROMPTS[0], 1, on_progress=note).tokens)
        except SessionError as error:
            sentence = str(error)
        seconds = time.monotonic() - set_at[-1]
        assert sentence.endswith(".")
        assert sentence.isprintable()
        assert relay.happened, "the fault had nothing to happen to"
        return tokens, seconds

    yield run
    wait_for(lambda: not server.workers() and not workers_of(os.getpid()), NOTICED_SECONDS, "the end of the workers")
    wait_for(lambda: session_folders(scratch) == [], 5, "the end of the session folders")
    assert server.process.poll() is None


def lead_links(patch: pytest.MonkeyPatch, keys: Path, relays: dict[Role, BadRelay]) -> None:
    """The links go through these relays, by caller, and the control channel past them."""
    channels = {caller: ControlChannel(relay.address, keys, CLIENT, 8, ALIVE_SECONDS) for caller, relay in relays.items()}

    async def open_link(_: ControlChannel, token: str, caller: Role) -> Stream:
        return await original(channels[caller], token, caller)

    original = ControlChannel.open_link
    patch.setattr(ControlChannel, "open_link", open_link)


def linked(progress: Progress) -> bool:
    return progress.phase == "set-up"


def computing(progress: Progress) -> bool:
    return progress.phase == "query" and progress.layer is not None


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        ("drop", linked),
        ("duplicate", linked),
        ("corrupt", linked),
        ("truncate", linked),
        ("reset", linked),
        ("half-open", linked),
        ("freeze", linked),
        ("corrupt", computing),
    ],
)
def test_a_fault_between_the_engines_ends_the_session_or_changes_nothing(
    ask: Ask,
    fault: Fault,
    when: Callable[[Progress], bool],
    served_checkpoint: Checkpoint,
    next_client: HandMade,
    faults_seen: FaultsSeen,
) -> None:
    with BadRelay() as relay:
        tokens, seconds = ask("engine", relay, when, fault)
    if tokens is not None:
        assert tokens == served_checkpoint.model.greedy(served_checkpoint.tokenizer.encode(PROMPTS[0]).ids, 1)
    phase = "computation" if when is computing else "set-up"
    served = next_is_served(next_client)
    faults_seen.add(f"engine link: {fault}", phase, None if tokens is not None else seconds, SILENT_SECONDS + NOTICED_SECONDS, served)


@pytest.mark.parametrize(
    ("fault", "when"),
    [
        ("drop", None),
        ("duplicate", None),
        ("corrupt", None),
        ("truncate", None),
        ("reset", None),
        ("half-open", None),
        ("freeze", None),
        ("corrupt", linked),
        ("truncate", linked),
        ("reset", linked),
        ("freeze", linked),
    ],
)
def test_a_fault_on_the_control_channel_ends_the_session(
    ask: Ask,
    fault: Fault,
    when: Callable[[Progress], bool] | None,
    served_checkpoint: Checkpoint,
    next_client: HandMade,
    faults_seen: FaultsSeen,
) -> None:
    with BadRelay() as relay:
        if when is not None:
            relay.way = relay.backward  # the client has nothing more to say
        tokens, seconds = ask("control", relay, when, fault)
    if (fault, when) == ("freeze", linked) and tokens is not None:
        # The answer comes over the engines' link: it may be there before the silence is long enough to be noticed.
        assert tokens == served_checkpoint.model.greedy(served_checkpoint.tokenizer.encode(PROMPTS[0]).ids, 1)
    else:
        assert tokens is None
    served = next_is_served(next_client)
    phase, limit = "handshake" if when is None else "set-up", ALIVE_SECONDS + NOTICED_SECONDS
    faults_seen.add(f"control channel: {fault}", phase, None if tokens is not None else seconds, limit, served)


def test_slow_networks_change_nothing(
    export_folder: Path,
    key_folder: Path,
    scratch: Path,
    served_checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    faults_seen: FaultsSeen,
) -> None:
    """A narrow way to the server, a slow one back and a slow control channel, all at once."""
    with BadRelay() as to_server, BadRelay() as to_client, BadRelay() as control:
        to_server.fault, to_client.fault, control.fault = "throttle", "delay", "delay"
        to_client.way = to_client.backward
        lead_links(monkeypatch, key_folder, {"client": to_server, "server": to_client})
        with serving(export_folder, key_folder, scratch / "slow.log") as server:
            control.target = to_server.target = to_client.target = server.address
            answer = Client(export_folder / "client", control.address, key_folder).ask(PROMPTS[0], 1)
        assert min(relay.happened for relay in (to_server, to_client, control)) > 0
    assert list(answer.tokens) == served_checkpoint.model.greedy(list(answer.prompt_tokens), 1)
    for fault in ("engine link: throttle", "engine link: delay", "control channel: delay"):
        faults_seen.add(fault, "all", None, 0, None)
