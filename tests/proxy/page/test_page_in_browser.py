"""The page in a real browser, in front of a real proxy and a real server: ask, stream, stop, no server, keys, small windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")

from tests.browser import Opened, chromium, open_page
from tests.private.service import PROMPTS, Serving, serving, wait_for
from tests.proxy.running import proxying

from hushlm.private.session.sent_sample import SAMPLE_BYTES
from hushlm.training import Checkpoint

KEY = "sk-0123456789abcdef"
ANSWER_MS = 200_000

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(export_folder, key_folder, tmp_path_factory.mktemp("log") / "server.log") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(export_folder: Path, key_folder: Path, server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    log = tmp_path_factory.mktemp("log") / "proxy.log"
    with proxying(key_folder, log, "--model", str(export_folder / "client"), "--server", server.address) as running:
        yield running


@pytest.fixture(scope="module")
def alone(export_folder: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A proxy with a key and without a server."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "key").write_text(KEY)
    (folder / "key").chmod(0o600)
    options = ["--model", str(export_folder / "client"), "--server", "127.0.0.1:1", "--retries", "0", "--connect-seconds", "1"]
    with proxying(key_folder, folder / "proxy.log", *options, "--api-key-file", str(folder / "key")) as running:
        yield running


def ready_to_ask(opened: Opened, prompt: str, tokens: int) -> None:
    opened.page.locator("#model option").wait_for(state="attached")
    opened.page.fill("#tokens", str(tokens))
    opened.page.fill("#prompt", prompt)
    opened.page.locator("#estimate", has_text="MB").wait_for()


def sampled(page: Any) -> list[bytes]:
    """What the page shows of what left, link by link."""
    return [bytes.fromhex(link) for link in page.text_content("#bytes").split("\n\n")]


def only_asked(opened: Opened, proxy: Serving) -> None:
    """Every request went to the proxy."""
    assert opened.requests
    assert all(address.startswith(f"http://{proxy.address}/") for address in opened.requests), opened.requests


def test_ask_and_stream(browser: Any, proxy: Serving, served_checkpoint: Checkpoint) -> None:
    tokens = served_checkpoint.tokenizer.encode(PROMPTS[0]).ids
    expected = served_checkpoint.tokenizer.decode(served_checkpoint.model.greedy(tokens, 3))
    with open_page(browser, f"http://{proxy.address}/") as opened:
        page = opened.page
        ready_to_ask(opened, PROMPTS[0], 3)
        assert f"{len(tokens)} tokens and 3 new ones" in page.inner_text("#estimate")
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector("#layers li.now", timeout=ANSWER_MS)
        assert page.is_enabled("#stop")
        assert page.is_disabled("#ask")
        page.locator("#where", has_text="Token 2 of 3").wait_for(timeout=ANSWER_MS)
        first = page.text_content("#text")
        assert first  # and not yet the whole
        assert expected.startswith(first)
        assert first != expected
        sample = sampled(page)
        page.locator("#where", has_text="Done: 3 tokens").wait_for(timeout=ANSWER_MS)
        assert [len(link) for link in sample] == [len(link) for link in sampled(page)] == [SAMPLE_BYTES, SAMPLE_BYTES]
        assert sample != sampled(page), "it is what left last"
        for seen_bytes in (*sample, *sampled(page)):
            assert PROMPTS[0].encode() not in seen_bytes
            assert len(set(seen_bytes)) > SAMPLE_BYTES / 2, "as random as ciphertext"
        assert page.text_content("#text") == expected
        seen = page.inner_text("#server")
        assert PROMPTS[0] not in seen
        assert f"{len(tokens)} tokens" in seen
        left, came = (float(re.search(rf"{name}\s+([\d.,]+) MB", seen)[1]) for name in ("Left this machine", "Came from the server"))  # type: ignore[index]
        assert min(left, came) > 1
        assert expected in page.text_content("#said")
        assert page.text_content("#entries .answer") == PROMPTS[0] + expected
        assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
        assert opened.complaints == []
        only_asked(opened, proxy)
        page.click("#clear")
        assert page.is_hidden("#history")


def test_stop_gives_the_session_up_at_both_ends(browser: Any, proxy: Serving, server: Serving) -> None:
    with open_page(browser, f"http://{proxy.address}/", 380, 700, "dark") as opened:
        page = opened.page
        ready_to_ask(opened, PROMPTS[1], 8)
        page.click("#ask")
        page.wait_for_selector("#layers li.now", timeout=ANSWER_MS)
        page.click("#stop")
        page.locator("#where", has_text="Stopped").wait_for()
        assert page.evaluate("document.activeElement.id") == "ask"
        assert page.is_hidden("#alert")
        wait_for(lambda: not server.workers() and not proxy.workers(), 60, "the end of both workers")
        assert page.evaluate("document.documentElement.scrollWidth") <= 380
        assert opened.complaints == []


def test_another_origin_gets_nothing(browser: Any, alone: Serving, proxy: Serving) -> None:
    """The page of one proxy, as a page that is not the other's."""
    attempt = """async ([address, path]) => {
        const body = JSON.stringify({model: "hush", prompt: "a", max_tokens: 1});
        try {
            await (await fetch(`http://${address}${path}`, {method: "POST", headers: {"content-type": "application/json"}, body})).text();
            return "answered";
        } catch (error) { return error.name; }
    }"""
    context = browser.new_context(bypass_csp=True)
    try:
        page = context.new_page()
        page.goto(f"http://{alone.address}/")
        before = proxy.log.read_text()
        for path in ("/page/estimate", "/page/completions", "/v1/completions"):
            assert page.evaluate(attempt, [proxy.address, path]) == "TypeError"
        assert proxy.log.read_text() == before
    finally:
        context.close()


def test_a_key_is_asked_for_and_a_wrong_one_is_told(browser: Any, alone: Serving) -> None:
    with open_page(browser, f"http://{alone.address}/") as opened:
        page = opened.page
        page.locator("#alert", has_text="asks for its API key").wait_for()
        assert page.evaluate("document.activeElement.id") == "key"
        page.fill("#key", "wrong")
        page.press("#key", "Tab")
        page.locator("#alert", has_text="This is not the proxy's API key").wait_for()
        page.fill("#key", KEY)
        page.press("#key", "Tab")
        page.locator("#model option").wait_for(state="attached")
        page.locator("#alert").wait_for(state="hidden")
        only_asked(opened, alone)


def test_no_server_is_a_sentence(browser: Any, alone: Serving) -> None:
    with open_page(browser, f"http://{alone.address}/") as opened:
        page = opened.page
        page.locator("#key").wait_for()
        page.fill("#key", KEY)
        page.press("#key", "Tab")
        ready_to_ask(opened, "<b>3 alpha</b>", 2)
        page.click("#ask")
        page.locator("#alert").wait_for(timeout=60_000)
        assert page.inner_text("#alert").count(".") >= 1
        assert "127.0.0.1:1" in page.inner_text("#alert")
        assert page.text_content("#asked") == "<b>3 alpha</b>"
        assert "not open yet" in page.inner_text("#server")
        assert page.is_enabled("#ask")
        page.fill("#tokens", "400")
        page.locator("#estimate", has_text="exceed the model's context").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(320, "light"), (390, "dark"), (1400, "dark")])
def test_it_fits_and_has_names_for_all_its_parts(browser: Any, alone: Serving, width: int, scheme: str) -> None:
    with open_page(browser, f"http://{alone.address}/", width, 700, scheme) as opened:
        page = opened.page
        page.locator("#key").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("Text to continue", "Model", "New tokens", "API key of this proxy"):
            assert page.get_by_label(name).count() == 1
        order = []
        page.focus("#key")
        for _ in range(4):
            page.keyboard.press("Tab")
            order.append(page.evaluate("document.activeElement.id"))
        assert order == ["prompt", "model", "tokens", "ask"]
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
