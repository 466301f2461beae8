"""Who gets the page and what it calls: this machine's browser, for the page itself, with the key; nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")
pytest.importorskip("httpx")

import httpx

from hushlm.private.client.client import Client
from hushlm.proxy.application import ProxySettings, application
from hushlm.proxy.page.files import POLICY

KEY = "sk-0123456789abcdef"
ASKED = {"model": "hush", "prompt": "3 alpha", "max_tokens": 2}


@pytest.fixture(scope="module")
def client(export_folder: Path, key_folder: Path) -> Client:
    """Of a server that is not there."""
    return Client(export_folder / "client", "127.0.0.1:1", key_folder)


def send(client: Client, method: str, path: str, settings: ProxySettings = ProxySettings(), **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(application(client, settings), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080") as http:
            return await http.request(method, path, **options)

    return asyncio.run(go())


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/static/page.css", "/static/stream.js", "/static/view.js", "/static/icon.svg"])
def test_files_carry_a_strict_policy(client: Client, path: str) -> None:
    found = send(client, "GET", path)
    assert found.status_code == 200
    assert found.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in found.headers


def test_no_script_and_no_style_stands_inside_the_html(client: Client) -> None:
    text = send(client, "GET", "/").text
    assert text.count("<script") == text.count("</script>") == text.count('<script type="module" src="/static/')
    assert "<style" not in text
    assert "style=" not in text
    assert "http" not in text.replace("http-equiv", "")


@pytest.mark.parametrize("path", ["/static/documents.py", "/static/..%2Ffiles.py", "/static/%2Fetc%2Fpasswd", "/static/"])
def test_there_are_no_other_files(client: Client, path: str) -> None:
    assert send(client, "GET", path).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/static/page.js"), ("POST", "/page/estimate"), ("POST", "/page/completions")]
)
def test_a_false_name_gets_nothing(client: Client, method: str, path: str) -> None:
    options: dict[str, Any] = {"json": ASKED} if method == "POST" else {}
    assert send(client, method, path, headers={"host": "attacker.example"}, **options).status_code == 403
    exposed = ProxySettings(hosts=None, api_key=KEY)
    assert send(client, method, path, exposed, headers={"authorization": f"Bearer {KEY}"}, **options).status_code == 404


@pytest.mark.parametrize("path", ["/page/estimate", "/page/completions"])
def test_another_page_cannot_ask(client: Client, path: str) -> None:
    for site in ("cross-site", "same-site"):
        assert send(client, "POST", path, headers={"sec-fetch-site": site}, json=ASKED).status_code == 403
    plain = {"content-type": "text/plain"}  # what a browser sends to other origins without asking first
    assert send(client, "POST", path, headers=plain, content='{"model": "hush", "prompt": "a"}').status_code == 415
    preflight = {"origin": "http://attacker.example", "access-control-request-method": "POST"}
    answer = send(client, "OPTIONS", path, headers=preflight)
    assert answer.status_code == 405
    assert "access-control-allow-origin" not in answer.headers


def test_the_key_is_asked_for_what_costs(client: Client) -> None:
    keyed = ProxySettings(api_key=KEY)
    assert send(client, "GET", "/", keyed).status_code == 200
    for path in ("/page/estimate", "/page/completions"):
        assert send(client, "POST", path, keyed, json=ASKED).status_code == 401
    assert send(client, "POST", "/page/estimate", keyed, json=ASKED, headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_the_price_is_the_clients_own(client: Client) -> None:
    found = send(client, "POST", "/page/estimate", json=ASKED).json()
    expected = client.estimate(7, 2)
    assert (found["prompt_tokens"], found["new_tokens"], found["run_at_tokens"]) == (7, 2, 32)
    assert (found["bytes"], found["messages"], found["set_up_bytes"]) == (expected.bytes, expected.messages, expected.set_up_bytes)
    local, wide = found["seconds"].values()
    assert local == expected.seconds < wide
    assert found["prepared_bytes"] is None
    assert found["layers"] == client.description.shape.layers


def test_the_price_of_what_cannot_be_asked_is_a_sentence(client: Client) -> None:
    answer = send(client, "POST", "/page/estimate", json=ASKED | {"prompt": "a" * 31})
    assert answer.status_code == 400
    assert "exceed the model's context of 32" in answer.json()["error"]["message"]
