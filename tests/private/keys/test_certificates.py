"""Keys: what is written, what is refused before a connection, and what TLS itself refuses on both channels."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import shutil
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("cryptography")
pytest.importorskip("spu")

from cryptography import x509

from hushlm.calibration.relay import free_ports
from hushlm.cli.main import main
from hushlm.private.engine import TlsFiles
from hushlm.private.keys.certificates import (
    SessionCertificate,
    add_client,
    client_context,
    create_keys,
    create_session_certificate,
    load_keys,
    renew,
    server_context,
)
from hushlm.private.keys.key_report import report_keys
from hushlm.private.program.description import RevealPolicy, load_description
from hushlm.private.session.process import Order, PeerOrder, WorkerProcess, start_worker

LONG_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=10)


def files(folder: Path, name: str) -> TlsFiles:
    """Without the checks of `load_keys`, which would come before TLS's own."""
    return TlsFiles(folder / f"{name}.pem", folder / f"{name}.key", folder / "authority.pem")


@pytest.fixture(scope="module")
def other_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other") / "keys"
    create_keys(folder, ["127.0.0.1", "localhost"])
    return folder


def test_only_the_owner_can_read_private_keys(key_folder: Path) -> None:
    assert sorted(path.name for path in key_folder.iterdir()) == sorted(
        f"{name}.{kind}" for name in ("authority", "server", "client") for kind in ("pem", "key")
    )
    for path in key_folder.glob("*.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_folder.stat().st_mode) == 0o700


def test_certificates_say_who_may_do_what(key_folder: Path) -> None:
    read = {name: x509.load_pem_x509_certificate((key_folder / f"{name}.pem").read_bytes()) for name in ("authority", "server", "client")}
    assert read["authority"].extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = read["server"].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    uses = {name: list(read[name].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) for name in ("server", "client")}
    assert uses == {"server": [x509.ExtendedKeyUsageOID.SERVER_AUTH], "client": [x509.ExtendedKeyUsageOID.CLIENT_AUTH]}
    for name in ("server", "client"):
        assert not read[name].extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        read[name].verify_directly_issued_by(read["authority"])


@pytest.mark.parametrize(
    ("hosts", "days", "part"),
    [
        ([], 365, "at least one --host"),
        (["127.0.0.1:8440"], 365, "neither a host name nor an IP address"),
        (["a b"], 365, "neither a host name nor an IP address"),
        (["localhost"], 0, "1 to 3650 days"),
        (["localhost"], 4000, "1 to 3650 days"),
    ],
)
def test_what_cannot_be_made_is_said_before_anything_is_written(tmp_path: Path, hosts: list[str], days: int, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        create_keys(tmp_path / "keys", hosts, days)
    assert not (tmp_path / "keys").exists()


def test_keys_are_never_overwritten(key_folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in key_folder.iterdir()}
    with pytest.raises(ValueError, match="holds keys already"):
        create_keys(key_folder, ["localhost"])
    with pytest.raises(ValueError, match="certificate for client already"):
        add_client(key_folder, "client")
    assert {path.name: path.read_bytes() for path in key_folder.iterdir()} == before


@pytest.mark.parametrize("name", ["", "authority", "server", "../escape", "a/b", "zoë"])
def test_a_client_s_name_is_a_plain_one(key_folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="A client's name"):
        add_client(key_folder, name)


def _missing(folder: Path) -> None:
    (folder / "client.key").unlink()


def _readable(folder: Path) -> None:
    (folder / "client.key").chmod(0o640)


def _swapped(folder: Path) -> None:
    (folder / "client.key").write_bytes((folder / "server.key").read_bytes())


def _garbage(folder: Path) -> None:
    (folder / "client.pem").write_text("no certificate")


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (_missing, "There is no"),
        (_readable, "can be read by other users"),
        (_swapped, "does not belong to"),
        (_garbage, "is not a certificate in PEM"),
    ],
)
def test_unusable_keys_are_named_before_a_connection(key_folder: Path, tmp_path: Path, damage: Callable[[Path], None], part: str) -> None:
    folder = tmp_path / "keys"
    shutil.copytree(key_folder, folder)
    load_keys(folder, "client")
    damage(folder)
    with pytest.raises(ValueError, match=part):
        load_keys(folder, "client")


def test_expired_and_foreign_certificates_are_named_before_a_connection(tmp_path: Path, key_folder: Path, other_keys: Path) -> None:
    create_keys(tmp_path / "old", ["localhost"], days=3, now=LONG_AGO)
    with pytest.raises(ValueError, match="expired on"):
        load_keys(tmp_path / "old", "server")
    create_keys(tmp_path / "new", ["localhost"], now=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=2))
    with pytest.raises(ValueError, match="not valid before"):
        load_keys(tmp_path / "new", "server")
    mixed = tmp_path / "mixed"
    shutil.copytree(key_folder, mixed)
    shutil.copy(other_keys / "authority.pem", mixed)
    with pytest.raises(ValueError, match="was not signed by"):
        load_keys(mixed, "client")


def test_a_renewed_certificate_is_for_the_same_party(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    create_keys(folder, ["127.0.0.1", "example.org"], days=3, now=LONG_AGO)
    add_client(folder, "alice", days=3)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("server", "alice"):
        old = next(entry for entry in report_keys(folder) if entry.file == name)
        assert renew(folder, name, days=30) == old.valid_until
        new = next(entry for entry in report_keys(folder) if entry.file == name)
        assert (new.role, new.name, new.hosts, new.private_key) == (old.role, old.name, old.hosts, True)
        assert new.fingerprint != old.fingerprint
        assert new.days_left == 29
        assert stat.S_IMODE((folder / f"{name}.key").stat().st_mode) == 0o600
    changed = {name for name, content in before.items() if (folder / name).read_bytes() != content}
    assert changed == {"server.pem", "server.key", "alice.pem", "alice.key"}
    assert sorted(before) == sorted(path.name for path in folder.iterdir())
    with pytest.raises(ValueError, match=r"authority\.pem expired on"):
        load_keys(folder, "server")


def test_what_cannot_be_renewed_is_said(key_folder: Path, other_keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    shutil.copytree(key_folder, folder)
    for name, part in (("authority", "An authority is not renewed"), ("nobody", "There is no"), ("../client", "There is no")):
        with pytest.raises(ValueError, match=part):
            renew(folder, name)
    with pytest.raises(ValueError, match="1 to 3650 days"):
        renew(folder, "client", days=0)
    shutil.copy(other_keys / "client.pem", folder / "stranger.pem")
    with pytest.raises(ValueError, match="was not signed by"):
        renew(folder, "stranger")
    (folder / "authority.key").unlink()
    with pytest.raises(ValueError, match="authority's private key"):
        renew(folder, "client")
    load_keys(folder, "client")


def test_a_folder_of_keys_is_listed_with_what_is_wrong(key_folder: Path, other_keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    shutil.copytree(key_folder, folder)
    now = datetime.datetime.now(datetime.UTC)
    assert [(entry.file, entry.role, entry.problem) for entry in report_keys(folder, now) if entry.file != "second"] == [
        ("authority", "authority", None),
        ("client", "client", None),
        ("server", "server", None),
    ]
    server = next(entry for entry in report_keys(folder, now) if entry.file == "server")
    assert server.hosts == ("127.0.0.1", "localhost")
    assert server.days_left == 364
    certificate = x509.load_pem_x509_certificate((folder / "server.pem").read_bytes())
    assert server.valid_until == certificate.not_valid_after_utc
    assert server.to_dict()["valid_until"].startswith(f"{certificate.not_valid_after_utc:%Y-%m-%dT}")
    (folder / "server.key").unlink()
    _readable(folder)
    shutil.copy(other_keys / "client.pem", folder / "stranger.pem")
    found = {entry.file: entry for entry in report_keys(folder, now)}
    assert not found["server"].private_key
    assert found["server"].problem is None
    assert "can be read by other users" in (found["client"].problem or "")
    assert "was not signed by" in (found["stranger"].problem or "")
    late = {entry.file: entry for entry in report_keys(folder, now + datetime.timedelta(days=400))}
    assert "expired on" in (late["server"].problem or "")
    assert late["server"].days_left < 0


def test_keys_are_shown_and_renewed_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert main(["keys", "create", str(folder), "--host", "127.0.0.1"]) == 0
    assert main(["keys", "renew", str(folder), "--name", "client", "--days", "20"]) == 0
    assert "stays good until" in capsys.readouterr().out
    assert main(["keys", "show", str(folder), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["keys"]
    assert [(entry["file"], entry["days_left"]) for entry in shown] == [("authority", 364), ("client", 19), ("server", 364)]
    (folder / "client.key").chmod(0o644)
    assert main(["keys", "show", str(folder)]) == 1
    table = capsys.readouterr().out
    assert "can be read by other users" in " ".join(table.split())
    for entry in shown:
        assert entry["fingerprint"][:16] in table
    for words, part in ((["renew", str(folder)], "--name"), (["show", str(tmp_path)], "authority.pem")):
        assert main(["keys", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert part in err


def connect(server: ssl.SSLContext, client: ssl.SSLContext | None, name: str = "127.0.0.1") -> bytes:
    """What a client gets from a server that says hello after the handshake; raises OSError if either refuses. None: no TLS at all."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(5)
        try:
            with server.wrap_socket(connection, server_side=True) as secure:
                secure.sendall(b"hello")
        except OSError:
            pass
        finally:
            connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with socket.create_connection(listener.getsockname(), 5) as plain:
            if client is None:
                plain.sendall(b"GET /health HTTP/1.1\r\n\r\n")
                with contextlib.suppress(ConnectionResetError):
                    return plain.recv(5)
                return b""
            with client.wrap_socket(plain, server_hostname=name) as secure:
                return secure.recv(5)
    finally:
        thread.join()
        listener.close()


def test_the_control_channel_takes_its_own(key_folder: Path) -> None:
    server = server_context(load_keys(key_folder, "server"))
    add = key_folder / "second.pem"
    if not add.exists():
        add_client(key_folder, "second")
    for client in ("client", "second"):
        assert connect(server, client_context(load_keys(key_folder, client))) == b"hello"
    assert connect(server, client_context(load_keys(key_folder, "client")), "localhost") == b"hello"


def test_the_control_channel_refuses_strangers(key_folder: Path, other_keys: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    create_keys(old, ["127.0.0.1"], days=3, now=LONG_AGO)
    ours, client = server_context(files(key_folder, "server")), client_context(files(key_folder, "client"))
    anonymous = ssl.create_default_context(cafile=str(key_folder / "authority.pem"))
    assert ours.minimum_version is client.minimum_version is ssl.TLSVersion.TLSv1_2
    stranger = client_context(files(other_keys, "client"))
    stranger.load_verify_locations(key_folder / "authority.pem")  # so that only the server can be the one to refuse
    imposter = client_context(files(key_folder, "server"))  # a server's certificate does not let a client in
    for refused in (anonymous, stranger, imposter):
        with pytest.raises(OSError):
            connect(ours, refused)
    assert connect(ours, None)[:1] in (b"", b"\x15"), "plaintext gets a TLS alert or nothing"
    for theirs in (server_context(files(other_keys, "server")), server_context(files(key_folder, "client"))):
        with pytest.raises(ssl.SSLCertVerificationError):
            connect(theirs, client)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        connect(ours, client, "example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(server_context(files(old, "server")), client_context(files(old, "client")))


async def engine_listening(worker: WorkerProcess, scratch: Path, export: Path, peer_address: str, peer: str) -> tuple[str, str]:
    """A client's worker that waits for this peer; its address and certificate."""
    description = load_description(export / "client")
    (port,) = free_ports(1)
    own_address = f"127.0.0.1:{port}"
    order = Order(
        role="client",
        folder=export / "client",
        scratch=scratch,
        own_address=own_address,
        peer_address=peer_address,
        fingerprint=description.fingerprint,
        prompt_length=1,
        new_tokens=1,
        reveal=RevealPolicy(),
        connect_seconds=25,
        silent_seconds=25,
    )
    worker.send(order)
    listening = await worker.next()
    assert listening.certificate is not None
    worker.send(PeerOrder(certificate=peer, prompt=[1]))
    return own_address, listening.certificate


def session_context(pair: SessionCertificate | None, trusted: str, server: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=trusted)
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.private_key)
    return context


def knock(address: str, context: ssl.SSLContext | None) -> str:
    """How the engine's listener takes a connection: "accepted" (it waits for more), or how it refuses."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 5) as plain:
        plain.settimeout(2)
        if context is None:
            # The engine's own protocol, in the clear: what a plaintext peer would send first.
            plain.sendall(b"PRPC" + bytes(8) + bytes(64))
            try:
                return "accepted" if plain.recv(1) not in (b"", b"\x15") else "refused"
            except TimeoutError:
                return "accepted"
            except ConnectionError:
                return "refused"
        try:
            with context.wrap_socket(plain) as secure:
                secure.recv(1)
                return "ended"
        except TimeoutError:
            return "accepted"
        except (ssl.SSLError, ConnectionError):
            return "refused"


def answer_call(listener: socket.socket, context: ssl.SSLContext) -> str:
    """How the engine takes a server that it calls: "accepted", or "refused" by an alert about the certificate.

    It calls again and again, and now and then opens a connection only to see whether there is somebody.
    """
    deadline = time.monotonic() + 20
    while (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
            connection.settimeout(2)
            with connection, context.wrap_socket(connection, server_side=True) as secure:
                if secure.recv(1):
                    return "accepted"
        except ssl.SSLError as error:
            if "ALERT" in (error.reason or ""):
                return "refused"
        except OSError:
            continue
    return "never called"


async def probe_engine(export: Path, folder: Path, expired: bool) -> dict[str, str]:
    """Knock at an engine that expects one peer, and be called by it, as that peer and as others."""
    now = LONG_AGO if expired else None
    for name in ("right", "wrong"):
        (folder / name).mkdir()
    right, wrong = create_session_certificate(folder / "right", now), create_session_certificate(folder / "wrong")
    listener = socket.create_server(("127.0.0.1", 0))
    called = f"127.0.0.1:{listener.getsockname()[1]}"
    outcome = {}
    try:
        async with start_worker() as (worker, scratch):
            address, certificate = await engine_listening(worker, scratch, export, called, right.text)
            # It calls as soon as it listens itself.
            outcome["calls wrong"] = await asyncio.to_thread(answer_call, listener, session_context(wrong, certificate, server=True))
            outcome["calls right"] = await asyncio.to_thread(answer_call, listener, session_context(right, certificate, server=True))
            contexts = {
                "plain": None,
                "anonymous": session_context(None, certificate),
                "wrong": session_context(wrong, certificate),
                "right": session_context(right, certificate),
            }
            for name, context in contexts.items():
                outcome[name] = await asyncio.to_thread(knock, address, context)
    finally:
        listener.close()
    return outcome


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_engine_s_link_takes_only_the_peer_of_its_session(export_folder: Path, tmp_path: Path) -> None:
    outcome = asyncio.run(probe_engine(export_folder, tmp_path, expired=False))
    refused = dict.fromkeys(("calls wrong", "plain", "anonymous", "wrong"), "refused")
    assert outcome == refused | {"calls right": "accepted", "right": "accepted"}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_engine_s_link_refuses_an_expired_peer(export_folder: Path, tmp_path: Path) -> None:
    outcome = asyncio.run(probe_engine(export_folder, tmp_path, expired=True))
    assert set(outcome.values()) == {"refused"}, outcome


def test_keys_are_not_written_among_other_files(tmp_path: Path) -> None:
    """A checkpoint's or an export's manifest would not list them, and the folder would be refused from then on."""
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds other files \(manifest\.json\)"):
        create_keys(tmp_path, ["localhost"])
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]
