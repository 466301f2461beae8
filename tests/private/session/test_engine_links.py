"""Connections that carry the engines' links: who gets one, what listens where, what is held of what passes, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("spu")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.private.by_hand import HandMade, hand_made
from tests.private.faults_seen import FaultsSeen, stopwatch
from tests.private.service import PROMPTS, Relay, Serving, ask_command, serving, wait_for, workers_of

from hushlm.private.client.client import Client, Progress
from hushlm.private.client.control_channel import ControlChannel
from hushlm.private.keys.certificates import CLIENT, SERVER, add_client, client_context, create_keys, load_keys, server_context
from hushlm.private.server.link_desk import REFUSAL
from hushlm.private.server.listeners import HEADER_SECONDS
from hushlm.private.session.engine_links import BUFFER_BYTES, LINK_PROTOCOL, ROLES, Role, Stream, bounded, engine_links
from hushlm.private.session.messages import SessionError
from hushlm.private.session.sent_sample import SAMPLE_BYTES, SentSample
from hushlm.training import Checkpoint

LONG_TOKEN = "t" * 64


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """At every address of this machine, so that what listens on loopback alone can be told from what does not."""
    folder = tmp_path_factory.mktemp("links")
    options = ("--listen", "0.0.0.0:0", "--workers", "2", "--connect-seconds", "60")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        with serving(export_folder, key_folder, folder / "server.log", *options) as running:
            port = running.address.rpartition(":")[2]
            yield Serving(running.process, f"127.0.0.1:{port}", running.log)
            assert "Traceback" not in running.log.read_text()


@pytest.fixture
def client(server: Serving, export_folder: Path, key_folder: Path, tmp_path: Path) -> Iterator[HandMade]:
    with hand_made(server.address, export_folder, key_folder, tmp_path) as made:
        yield made


@contextlib.contextmanager
def accepted(client: HandMade) -> Iterator[str]:
    """The token of a session whose client has no engine."""
    with client.session() as events:
        event = next(event for event in events if event["event"] == "accepted")
        yield event["link_token"]


def opened(server: Serving, keys: Path, token: str, caller: Role = "client", name: str = CLIENT) -> str:
    """What becomes of a connection for a link: the sentence that refuses it, or nothing."""

    async def run() -> str:
        try:
            stream = await ControlChannel(server.address, keys, name, 5, 5).open_link(token, caller)
        except SessionError as error:
            return str(error)
        # Not given back before the session ends: the link stays taken.
        stream.writer.transport.abort()
        return ""

    return asyncio.run(run())


def test_a_link_is_given_to_the_client_of_its_session_alone_and_once(
    server: Serving, client: HandMade, key_folder: Path, tmp_path: Path
) -> None:
    strangers = tmp_path / "strangers"
    create_keys(strangers, ["127.0.0.1"])
    with accepted(client) as token:
        assert len(token) >= 43, "32 random bytes"
        for wrong in ("wrong", token[:-1], token + "x", LONG_TOKEN):
            assert REFUSAL in opened(server, key_folder, wrong)
        add_client(key_folder, "links-other")
        assert REFUSAL in opened(server, key_folder, token, name="links-other"), "another client of the same authority"
        assert "it was stopped or killed, or the network broke" in opened(server, strangers, token), "another authority's"
        for caller in ROLES:
            assert opened(server, key_folder, token, caller) == ""
            assert REFUSAL in opened(server, key_folder, token, caller), "a link has one connection"
    assert REFUSAL in opened(server, key_folder, token), "the session is over"
    assert token not in server.log.read_text()


@pytest.mark.parametrize(
    "line", [b"\n", b"POST /sessions HTTP/1.1\r\n\r\n", b"{}\n", b'{"token": "a", "caller": "both"}\n', b"x" * (4 * BUFFER_BYTES)]
)
def test_what_is_no_request_for_a_link_is_refused(server: Serving, key_folder: Path, line: bytes) -> None:
    with link_connection(server, key_folder) as connection, contextlib.suppress(ConnectionError, ssl.SSLError):
        connection.sendall(line)
        answer = connection.recv(1000)
        assert REFUSAL.encode() in answer or answer == b""
        assert connection.recv(1000) == b""


@pytest.mark.slow
def test_one_that_says_nothing_is_cut_off(server: Serving, key_folder: Path, faults_seen: FaultsSeen) -> None:
    with stopwatch() as taken, link_connection(server, key_folder) as connection:
        assert connection.recv(1000) == b""
    assert taken[0] > HEADER_SECONDS / 2
    faults_seen.add("connection for a link that says nothing", "handshake", taken[0], HEADER_SECONDS + 10, None)


@contextlib.contextmanager
def link_connection(server: Serving, keys: Path) -> Iterator[ssl.SSLSocket]:
    context = client_context(load_keys(keys, CLIENT))
    context.set_alpn_protocols([LINK_PROTOCOL])
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), 30) as plain, context.wrap_socket(plain, server_hostname=host) as connection:
        assert connection.selected_alpn_protocol() == LINK_PROTOCOL
        yield connection


def listeners(*processes: int) -> set[tuple[str, int]]:
    """Where processes listen, or could be sent datagrams."""
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in psutil.Process(process).net_connections("inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(240)
def test_a_client_opens_every_connection_and_nothing_of_it_listens_on_a_network(
    server: Serving, export_folder: Path, key_folder: Path, served_checkpoint: Checkpoint
) -> None:
    """The server has no address of the client, and connects nowhere; during the computation, of both parties' processes."""
    port = int(server.address.rpartition(":")[2])
    seen: dict[str, set[tuple[str, int]]] = {}
    to_server: list[int] = []

    def look(progress: Progress) -> None:
        if progress.phase == "query" and not seen:
            seen["client"] = listeners(os.getpid(), *workers_of(os.getpid()))
            seen["server"] = listeners(server.process.pid, *server.workers())
            own = psutil.Process().net_connections("tcp")
            to_server.extend(one.laddr.port for one in own if one.raddr and one.raddr.port == port)

    answer = Client(export_folder / "client", server.address, key_folder).ask(PROMPTS[0], 1, on_progress=look)
    assert list(answer.tokens) == served_checkpoint.model.greedy(list(answer.prompt_tokens), 1)
    assert {address for address, _ in seen["client"]} == {"127.0.0.1"}
    assert {place for place in seen["server"] if place[0] != "127.0.0.1"} == {("0.0.0.0", port)}
    assert len(to_server) == 3, "the control channel, and a connection for each link"


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(240)
def test_a_sample_is_the_end_of_what_was_sent_and_ciphertext(
    server: Serving, export_folder: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes into both connections is recorded, and read as records of TLS: samples of a computation lie in encrypted ones."""
    written: dict[Role, bytearray] = {}
    original = ControlChannel.open_link

    async def recorded(self: ControlChannel, token: str, caller: Role) -> Stream:
        stream = await original(self, token, caller)
        write, written[caller] = stream.writer.write, bytearray()

        def note(data: bytes) -> None:
            written[caller] += data
            write(data)

        monkeypatch.setattr(stream.writer, "write", note)
        return stream

    monkeypatch.setattr(ControlChannel, "open_link", recorded)
    sample, ends = SentSample(), list[tuple[Role, int]]()
    asking = Client(export_folder / "client", server.address, key_folder)
    prompt = asking.tokenizer.encode(PROMPTS[0]).ids

    async def run() -> None:
        async for event in asking.events(prompt, 1, on_sent=sample.note):
            if isinstance(event, Progress) and event.phase == "query":
                assert set(sample.last()) == set(ROLES)
                for caller, last in sample.last().items():
                    assert last == written[caller][-SAMPLE_BYTES:]
                    assert PROMPTS[0].encode() not in last
                    ends.append((caller, len(written[caller])))

    asyncio.run(run())
    assert len(set(ends)) > 10, "it moves on"
    for caller, sent in written.items():
        assert PROMPTS[0].encode() not in sent
        encrypted = application_data(bytes(sent))
        for end in (end for of, end in ends if of == caller):
            assert any(start <= end - SAMPLE_BYTES and end <= stop for start, stop in encrypted), end


def application_data(sent: bytes) -> list[tuple[int, int]]:
    """Where the stretches of TLS records lie that hold encrypted data; asserts that there is nothing but records."""
    stretches: list[tuple[int, int]] = []
    place = 0
    while place < len(sent):
        kind, version, length = struct.unpack(">BHH", sent[place : place + 5])
        assert kind in (20, 21, 22, 23), "change of cipher, alert, handshake, application data"
        assert version in (0x0301, 0x0303)
        after = place + 5 + length
        if kind == 23:
            joined = stretches.pop()[0] if stretches and stretches[-1][1] == place else place
            stretches.append((joined, after))
        place = after
    return stretches


IN_A_NAMESPACE = """
import os, socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with socket.create_server(("127.0.0.1", 0)) as listener:
    socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [listener.fileno()])
    command = [part.replace("PORT", str(listener.getsockname()[1])) for part in sys.argv[2:]]
os.execv(command[0], command)
"""


@pytest.mark.slow
@pytest.mark.two_party
@pytest.mark.timeout(240)
def test_a_client_that_nothing_can_connect_to_gets_its_answer(
    server: Serving, export_folder: Path, key_folder: Path, served_checkpoint: Checkpoint
) -> None:
    """Its network has no interface but its own loopback; the only way out is a relay that connects to the server, and to nothing else."""
    if subprocess.run(["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine lets no test make a network namespace")
    here, there = socket.socketpair()
    command = ask_command(PROMPTS[0], export_folder, key_folder, "127.0.0.1:PORT", "--new-tokens", "1", "--json")
    inside = ["unshare", "--net", sys.executable, "-c", IN_A_NAMESPACE, str(there.fileno()), *command]
    asking = subprocess.Popen(inside, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, pass_fds=[there.fileno()])
    try:
        [_, [listener], *_] = socket.recv_fds(here, 1, 1)
        with Relay(server.address, listener=socket.socket(fileno=listener)) as relay:
            wait_for(lambda: bool(workers_of(asking.pid)) or asking.poll() is not None, 60, "the client's worker")
            networks = {str(Path(f"/proc/{process}/ns/net").readlink()) for process in (asking.pid, *workers_of(asking.pid))}
            interfaces = Path(f"/proc/{asking.pid}/net/dev").read_text().splitlines()[2:]
            out, errors = asking.communicate(timeout=180)
            assert relay.forward
    finally:
        asking.kill()
        asking.wait()
        for end in (here, there):
            end.close()
    assert asking.returncode == 0, errors
    assert len(networks) == 1
    assert networks != {str(Path("/proc/self/ns/net").readlink())}
    assert [line.partition(":")[0].strip() for line in interfaces] == ["lo"]
    prompt = served_checkpoint.tokenizer.encode(PROMPTS[0]).ids
    assert json.loads(out)["tokens"] == served_checkpoint.model.greedy(prompt, 1)


@contextlib.asynccontextmanager
async def linked(keys: Path) -> AsyncIterator[tuple[Stream, Stream]]:
    """A connection over mutual TLS: the client's end and the server's."""
    for_server, for_client = server_context(load_keys(keys, SERVER)), client_context(load_keys(keys, CLIENT))
    async with listening(0, for_server, BUFFER_BYTES // 2) as (port, ends):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=for_client, limit=BUFFER_BYTES // 2)
        async with closed_at_the_end(Stream(reader, bounded(writer))) as near:
            far = await ends
            bounded(far.writer)
            yield near, far


@contextlib.asynccontextmanager
async def listening(
    port: int, tls: ssl.SSLContext | None = None, limit: int = 1 << 16
) -> AsyncIterator[tuple[int, asyncio.Future[Stream]]]:
    """A listener on loopback: its port, and the only connection that is made to it."""
    taken: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    take = lambda reader, writer: taken.set_result(Stream(reader, writer))  # noqa: E731
    listener = await asyncio.start_server(take, "127.0.0.1", port, ssl=tls, limit=limit)
    try:
        yield listener.sockets[0].getsockname()[1], taken
    finally:
        listener.close()
        if taken.done():
            taken.result().writer.transport.abort()
        await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def closed_at_the_end(stream: Stream) -> AsyncIterator[Stream]:
    try:
        yield stream
    finally:
        stream.writer.transport.abort()
        await asyncio.sleep(0.05)


async def connected(address: str) -> Stream:
    host, _, port = address.rpartition(":")
    return Stream(*await asyncio.open_connection(host, int(port)))


@dataclass
class Link:
    """One link from end to end, made by `link`.

    Attributes:
        caller, callee: the engines' ends of it.
        near, far: the connection that carries it, at the client and at the server.
    """

    caller: Stream
    callee: Stream
    near: Stream
    far: Stream


@contextlib.asynccontextmanager
async def link(keys: Path, caller: Role = "client", limit: int = 1 << 16) -> AsyncIterator[Link]:
    """Both parties' forwarding, with a connection over mutual TLS between them; `limit` is of the callee's reader."""
    async with linked(keys) as (near, far), engine_links("client", 5) as client, engine_links("server", 5) as server:
        calling, called = (client, server) if caller == "client" else (server, client)
        client.join(caller, near)
        server.join(caller, far)
        async with (
            listening(int(called.own_address.rpartition(":")[2]), limit=limit) as (_, taken),
            closed_at_the_end(await connected(calling.peer_address)) as stream,
        ):
            yield Link(stream, await asyncio.wait_for(taken, 5), near, far)


async def hears_the_end(stream: Stream) -> bool:
    """Within seconds, whether orderly or not."""
    with contextlib.suppress(ConnectionError):
        return await asyncio.wait_for(stream.reader.read(), 5) == b""
    return True


def held(stream: Stream) -> int:
    """Bytes that wait in a connection's reader or writer."""
    return max(len(stream.reader._buffer), stream.writer.transport.get_write_buffer_size())  # type: ignore[attr-defined]


def test_a_slow_reader_makes_the_sender_wait_and_little_is_held(key_folder: Path, faults_seen: FaultsSeen) -> None:
    """Of 200 MB offered, only what the buffers have room for is taken while nobody reads; then all of it arrives, in order."""
    block, blocks = os.urandom(1 << 16), 3200
    sent = 0

    async def offer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(blocks):
            writer.write(block)
            await writer.drain()
            sent += 1

    async def run() -> tuple[int, int]:
        async with link(key_folder, limit=1024) as made:
            made.caller.writer.transport.set_write_buffer_limits(high=0)
            offering = asyncio.create_task(offer(made.caller.writer))
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(1)
            waiting = max(map(held, (made.near, made.far)))
            for _ in range(blocks):
                assert await asyncio.wait_for(made.callee.reader.readexactly(len(block)), 20) == block
            await offering
            return before, waiting

    stalled_at, waiting = asyncio.run(run())
    assert 0 < stalled_at < blocks / 4, "the kernel's buffers at both ends of three connections take some, and no more than they have"
    assert waiting <= 3 * BUFFER_BYTES, "one read may come on top of what makes the source wait"
    faults_seen.add("engine link: slow reader", "all", None, 0, None)


@given(parts=st.lists(st.tuples(st.sampled_from(ROLES), st.binary(min_size=1, max_size=100)), max_size=20))
def test_a_sample_is_bounded_and_the_end_however_it_comes(parts: list[tuple[Role, bytes]]) -> None:
    sample = SentSample()
    for caller, sent in parts:
        sample.note(caller, sent)
    whole = {caller: b"".join(sent for of, sent in parts if of == caller) for caller in ROLES}
    assert sample.last() == {caller: sent[-SAMPLE_BYTES:] for caller, sent in whole.items() if sent}


@settings(deadline=None, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1, 300_000), min_size=1, max_size=8), caller=st.sampled_from(ROLES))
def test_every_byte_arrives_both_ways(key_folder: Path, sizes: list[int], caller: Role) -> None:
    async def run() -> None:
        async with link(key_folder, caller) as made:
            for size in sizes:
                for one, other in ((made.caller, made.callee), (made.callee, made.caller)):
                    data = os.urandom(size)
                    one.writer.write(data)
                    assert await asyncio.wait_for(other.reader.readexactly(size), 10) == data

    asyncio.run(run())


def test_the_last_bytes_leave_before_the_end_does(key_folder: Path) -> None:
    """An engine that has finished and gone: its peer has its last word, and then the end."""

    async def run() -> None:
        async with link(key_folder) as made:
            made.caller.writer.write(b"x" * 100_000)
            made.caller.writer.close()
            assert await asyncio.wait_for(made.callee.reader.read(), 10) == b"x" * 100_000

    asyncio.run(run())


@pytest.mark.parametrize("dead", ["near", "far"])
def test_when_a_connection_dies_both_engines_hear_of_it(key_folder: Path, dead: str) -> None:
    async def run() -> None:
        async with link(key_folder) as made:
            getattr(made, dead).writer.transport.abort()
            assert await hears_the_end(made.caller)
            assert await hears_the_end(made.callee)

    asyncio.run(run())


def test_a_second_call_of_an_engine_is_ended() -> None:
    """A link has one connection, whoever connects to its place on loopback."""

    async def run() -> None:
        async with engine_links("client", 5) as links, closed_at_the_end(await connected(links.peer_address)):
            await asyncio.sleep(0.1)
            async with closed_at_the_end(await connected(links.peer_address)) as second:
                assert await hears_the_end(second)

    asyncio.run(run())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")
def test_another_user_s_call_does_not_take_the_engine_s_place() -> None:
    nobody = 65534
    call = "exec 3<>/dev/tcp/127.0.0.1/$0; read -r -t 5 -N 1 -u 3; exit $?"

    async def run() -> None:
        async with engine_links("client", 5) as links:
            port = links.peer_address.rpartition(":")[2]
            # Not Python, which other users may not be allowed to read here.
            stranger = await asyncio.create_subprocess_exec("/bin/bash", "-c", call, port, user=nobody, cwd="/")
            assert await asyncio.wait_for(stranger.wait(), 10) == 1, "1 is the connection's end; a time-out is more"
            assert not links._call.done()
            async with closed_at_the_end(await connected(links.peer_address)):
                await asyncio.wait_for(links._call, 5)

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.two_party
def test_a_link_that_is_refused_ends_the_session_in_a_sentence(
    server: Serving, export_folder: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ControlChannel.open_link
    monkeypatch.setattr(ControlChannel, "open_link", lambda self, token, caller: original(self, token[:-1], caller))
    with pytest.raises(SessionError, match="accepted the session, and then no connection for its engine: This connection belongs to no"):
        Client(export_folder / "client", server.address, key_folder).ask(PROMPTS[0], 1)
    wait_for(lambda: not server.workers() and not workers_of(os.getpid()), 20, "the end of the workers")


def test_an_engine_that_never_listens_ends_its_link(key_folder: Path) -> None:
    async def run() -> float:
        async with linked(key_folder) as (near, far), engine_links("server", 0.3) as server:
            start = time.monotonic()
            server.join("client", far)
            assert await hears_the_end(near)
            return time.monotonic() - start

    assert 0.2 < asyncio.run(run()) < 5


def test_the_end_of_a_session_leaves_no_task_and_no_connection(key_folder: Path) -> None:
    """Neither while a link waits for its engine's call, nor while it carries."""

    async def run() -> None:
        before = asyncio.all_tasks()
        async with linked(key_folder) as (near, far):
            async with engine_links("client", 5) as links:
                links.join("client", near)
                await asyncio.sleep(0.05)
            assert await hears_the_end(far)
        async with link(key_folder):
            pass
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == before

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.two_party
def test_the_session_ends_at_both_sides_when_one_link_dies(
    server: Serving, export_folder: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch, faults_seen: FaultsSeen
) -> None:
    """Only one of the two, and only its connection: everything else stands."""
    streams: list[Stream] = []
    original = ControlChannel.open_link

    async def keep(self: ControlChannel, token: str, caller: Role) -> Stream:
        streams.append(await original(self, token, caller))
        return streams[-1]

    monkeypatch.setattr(ControlChannel, "open_link", keep)
    cut: list[float] = []

    def note(progress: Progress) -> None:
        if progress.phase == "query" and not cut:
            cut.append(time.monotonic())
            connection = streams[0].writer.get_extra_info("socket")
            with socket.socket(fileno=os.dup(connection.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)

    with pytest.raises(SessionError) as failure:
        Client(export_folder / "client", server.address, key_folder).ask(PROMPTS[0], 8, on_progress=note)
    assert str(failure.value).endswith(".")
    wait_for(lambda: not server.workers() and not workers_of(os.getpid()), 20, "the end of the workers")
    faults_seen.add("one of the links cut at the client", "computation", time.monotonic() - cut[0], 20, None)
