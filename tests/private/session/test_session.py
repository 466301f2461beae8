"""The handshake: every mismatch is one sentence, and nothing that arrives can be anything but a request or a refusal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")
pytest.importorskip("httpx")

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.private.by_hand import valid_request

from hushlm.config import ModelShape
from hushlm.private.engine import engine_version
from hushlm.private.program.description import ProgramDescription, RevealPolicy, load_description
from hushlm.private.server.service import PrivateServer, ServerSettings
from hushlm.private.session.addresses import format_address, is_this_machine, parse_address, plain_host
from hushlm.private.session.handshake import check_accepted, check_request
from hushlm.private.session.messages import (
    MAXIMUM_BODY_BYTES,
    Accepted,
    Alive,
    Failed,
    Finished,
    Limits,
    Queued,
    SessionError,
    SessionRequest,
    printable,
    read_event,
    read_request,
    shape_of,
)

PEER = "127.0.0.1"
LIMITS = Limits(new_tokens=20, session_seconds=60, reveal=RevealPolicy.parse("topk:5"))
SHAPE = shape_of(ModelShape(layers=2, heads=2, width=32, context=32, vocabulary=256))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def description(export_folder: Path) -> ProgramDescription:
    return load_description(export_folder / "client")


@pytest.fixture(scope="module")
def request_fields(export_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a request that the server of `export_folder` accepts."""
    request = valid_request(export_folder, tmp_path_factory.mktemp("request"))
    return request | {
        "prompt_length": 9,
        "new_tokens": 3,
        "engine_certificate": "-----BEGIN CERTIFICATE-----",
    }


@pytest.fixture(scope="module")
def private_server(export_folder: Path, key_folder: Path) -> Iterator[PrivateServer]:
    """Not running; its application is called without a socket."""
    made = PrivateServer(export_folder / "server", "127.0.0.1:0", key_folder, ServerSettings(new_tokens=20, reveal=LIMITS.reveal))
    yield made
    made.close()


def post(server: PrivateServer, body: bytes) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(server.application(), raise_app_exceptions=False, client=(PEER, 1))
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
            return await http.post("/sessions", content=body)

    return asyncio.run(send())


def assert_sentence(text: str) -> None:
    assert text.endswith(".")
    assert "\n" not in text
    assert text.isprintable()
    assert 10 < len(text) < 600


def test_a_request_survives_the_way(request_fields: dict[str, Any], description: ProgramDescription) -> None:
    request = SessionRequest.model_validate(request_fields)
    assert read_request(request.model_dump_json().encode()) == request
    check_request(request, description, engine_version(), LIMITS)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"protocol_version": 999}, "protocol version 999"),
        ({"protocol_version": 999, "surprise": 1}, "protocol version 999"),
        ({"protocol_version": "1"}, "protocol_version"),
        ({"surprise": 1}, "surprise: extra inputs"),
        ({"engine_version": "Other (ABC 1.2)"}, "engine is Other (ABC 1.2), this server's Cheetah"),
        ({"engine_version": "x" * 101}, "engine_version: string should have at most 100"),
        ({"architecture": "SM+LN+G"}, "architecture is SM+LN+G, this server's SM(t)+ScFuFFN"),
        ({"architecture": ""}, "architecture: string should have at least 1"),
        ({"shape": SHAPE | {"width": 64}}, "model has width = 64, this server's 32"),
        ({"shape": SHAPE | {"vocabulary": 257}}, "model has vocabulary = 257, this server's 256"),
        ({"shape": SHAPE | {"depth": 2}}, "model has depth = 2, this server's no such size"),
        ({"shape": {}}, "model has layers = no such size, this server's 2"),
        ({"shape": {"layers": "2"}}, "shape.layers: input should be a valid number"),
        ({"shape": dict.fromkeys(map(str, range(41)), 1)}, "shape: dictionary should have at most 40 items"),
        ({"fingerprint": "0" * 64}, "program is 000000000000"),
        ({"fingerprint": "short"}, "fingerprint: string should match"),
        ({"prompt_length": 0}, "prompt_length: input should be greater than or equal to 1"),
        ({"prompt_length": 30}, "exceed the context of 32"),
        ({"prompt_length": 1.5}, "prompt_length: input should be a valid integer"),
        ({"prompt_length": 10**30}, "prompt_length"),
        ({"new_tokens": 30}, "exceed the context of 32"),
        ({"new_tokens": 21}, "at most 20 tokens"),
        ({"new_tokens": True}, "new_tokens: input should be a valid integer"),
        ({"reveal": {"kind": "weights"}}, "reveal.kind: input should be 'candidates', 'token', 'topk' or 'logits'"),
        ({"reveal": {"kind": "topk", "top": 65}}, "reveal.top"),
        ({"reveal": {"kind": "topk", "top": 6}}, "reveals at most topk:5 of each step, not topk:6"),
        ({"reveal": {"kind": "logits"}}, "reveals at most topk:5 of each step, not logits"),
        ({"engine_address": f"{PEER}:40000"}, "engine_address: extra inputs"),
        ({"engine_certificate": "x" * 5000}, "engine_certificate"),
        ({"engine_certificate": None}, "engine_certificate"),
    ],
)
def test_a_mismatch_is_named(private_server: PrivateServer, request_fields: dict[str, Any], changes: dict[str, Any], part: str) -> None:
    response = post(private_server, json.dumps(request_fields | changes).encode())
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert part in response.json()["error"]
    assert_sentence(response.json()["error"])
    assert private_server.running == 0


@pytest.mark.parametrize("field", SessionRequest.model_fields)
def test_nothing_may_be_left_out(private_server: PrivateServer, request_fields: dict[str, Any], field: str) -> None:
    response = post(private_server, json.dumps({name: value for name, value in request_fields.items() if name != field}).encode())
    assert response.status_code == 400
    assert f"{field}: field required" in response.json()["error"]


def test_a_large_body_is_refused_before_it_is_read(private_server: PrivateServer) -> None:
    response = post(private_server, b" " * (MAXIMUM_BODY_BYTES + 1))
    assert response.status_code == 400
    assert "larger than" in response.json()["error"]


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_refused_in_one_sentence(body: bytes) -> None:
    with pytest.raises(SessionError) as refusal:
        read_request(body)
    assert_sentence(str(refusal.value))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(SessionRequest.model_fields)), value=JSON)
def test_a_request_with_one_field_changed_is_itself_or_refused(request_fields: dict[str, Any], field: str, value: Any) -> None:
    changed = request_fields | {field: value}
    try:
        request = read_request(json.dumps(changed).encode())
    except SessionError as error:
        assert_sentence(str(error))
    else:
        assert json.loads(request.model_dump_json()) == changed | {
            "reveal": {"kind": "token", "top": 1, "candidates": [], **changed["reveal"]}
        }


def test_deep_nesting_and_long_numbers_are_refused(private_server: PrivateServer) -> None:
    for body in (b"[" * 10_000, b'{"a":' * 3000, b"9" * 10_000, b'{"protocol_version": ' + b"9" * 10_000 + b"}"):
        response = post(private_server, body)
        assert response.status_code == 400
        assert_sentence(response.json()["error"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_the_application_answers_garbage_and_lives(private_server: PrivateServer, body: bytes) -> None:
    assert post(private_server, body).status_code == 400
    assert private_server.running == 0


def test_other_paths_and_methods_are_named(private_server: PrivateServer) -> None:
    async def get(method: str, path: str) -> httpx.Response:
        transport = httpx.ASGITransport(private_server.application())
        async with httpx.AsyncClient(transport=transport, base_url="https://server") as http:
            return await http.request(method, path)

    assert asyncio.run(get("GET", "/health")).json() == {"status": "ok", "sessions": 0, "workers": 1}
    for method, path, status in (("GET", "/", 404), ("GET", "/sessions", 405), ("POST", "/health", 405)):
        response = asyncio.run(get(method, path))
        assert response.status_code == status
        assert_sentence(response.json()["error"])


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"protocol_version": 999}, "protocol version 999"),
        ({"engine_version": "Other\x1b[31m"}, "engine is Other?[31m"),
        ({"architecture": "SM\x1b"}, "The server's architecture is SM?, this client's SM(t)+ScFuFFN"),
        ({"shape": SHAPE | {"layers": 3}}, "The server's model has layers = 3, this client's 2"),
        ({"fingerprint": "f" * 64}, "program is ffffffffffff"),
        ({"prompt_length": 8}, "compute 3 tokens after 8, and 3 after 9 were asked for"),
        ({"new_tokens": 4}, "compute 4 tokens after 9, and 3 after 9 were asked for"),
        ({"reveal": {"kind": "token"}}, "about to reveal token, and topk:5 was asked for"),
        ({"limits": {**LIMITS.model_dump(), "new_tokens": 2}}, "accepted 3 tokens and says that it allows 2"),
        ({"limits": {**LIMITS.model_dump(), "reveal": {"kind": "token"}}}, "accepted to reveal topk:5 and says that it allows token"),
    ],
)
def test_the_client_checks_the_server_too(
    description: ProgramDescription, request_fields: dict[str, Any], changes: dict[str, Any], part: str
) -> None:
    request = SessionRequest.model_validate(request_fields | {"reveal": LIMITS.reveal})
    fields = {**request.model_dump(), "session": "1", "limits": LIMITS.model_dump(), "link_token": "t", "threads": 2, "transfers": "ferret"}
    check_accepted(Accepted.model_validate(fields), request, description, engine_version())
    with pytest.raises(SessionError) as refusal:
        check_accepted(Accepted.model_validate(fields | changes), request, description, engine_version())
    assert part in str(refusal.value)
    assert_sentence(str(refusal.value))


@pytest.mark.parametrize("field", sorted(Accepted.model_fields.keys() - {"event"}))
def test_a_server_may_leave_nothing_out(request_fields: dict[str, Any], field: str) -> None:
    fields = {
        **request_fields,
        "event": "accepted",
        "session": "1",
        "limits": LIMITS.model_dump(),
        "link_token": "t",
        "threads": 2,
        "transfers": "ferret",
    }
    assert isinstance(read_event(json.dumps(fields)), Accepted)
    with pytest.raises(SessionError, match="not an event of this protocol"):
        read_event(json.dumps({name: value for name, value in fields.items() if name != field}))


@pytest.mark.parametrize("event", [Alive(), Queued(position=3), Finished(), Failed(error="It broke.")])
def test_events_survive_the_way(event: Alive | Queued | Finished | Failed) -> None:
    assert read_event(event.model_dump_json()) == event


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | JSON.map(json.dumps))
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(SessionError) as refusal:
        read_event(line)
    assert_sentence(str(refusal.value))


@given(st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True), st.integers(0, 65535))
def test_an_address_survives_the_way(host: str, port: int) -> None:
    assert parse_address(f"{host}:{port}") == (host, port)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_an_address_is_read_as_it_is_written(host: IPv4Address | IPv6Address, port: int) -> None:
    assert parse_address(format_address(str(host), port)) == (str(host), port)
    assert plain_host(plain_host(str(host))) == plain_host(str(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "localhost", "LOCALHOST."])
def test_addresses_of_this_machine_are_known(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["192.0.2.1", "::2", "0.0.0.0", "example.org", "localhost.example.org", "127.0.0.1.example.org"])
def test_other_addresses_are_not_taken_for_it(host: str) -> None:
    assert not is_this_machine(host)


def test_one_host_has_one_name() -> None:
    assert plain_host("::ffff:192.0.2.1") == plain_host("192.0.2.1") == "192.0.2.1"
    assert plain_host("0:0:0:0:0:0:0:1") == "::1"
    assert plain_host("localhost") == "localhost"


@given(st.text(max_size=400))
def test_an_address_is_read_or_refused(text: str) -> None:
    try:
        host, port = parse_address(text)
    except SessionError as error:
        assert_sentence(str(error))
    else:
        assert host
        assert 0 <= port <= 65535


@given(st.text(max_size=300))
def test_what_a_peer_sent_cannot_move_the_cursor(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 100


@pytest.mark.parametrize("text", ["token", "logits", "topk:1", "topk:64"])
def test_reveal_policies_survive_the_way(text: str) -> None:
    policy = RevealPolicy.parse(text)
    assert str(policy) == text
    assert RevealPolicy.model_validate_json(policy.model_dump_json()) == policy


def test_reveal_policies_are_ordered_by_what_they_tell() -> None:
    ordered = [RevealPolicy.parse(text) for text in ("token", "topk:1", "topk:5", "topk:64", "logits")]
    for low, policy in enumerate(ordered):
        assert [policy.is_within(most) for most in ordered] == [low <= high for high in range(len(ordered))]
