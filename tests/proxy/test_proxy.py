"""The proxy whole: the unmodified `openai` client, `hushlm proxy` and `hushlm serve` in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("spu")
pytest.importorskip("openai")

import openai
from tests.private.service import PROMPTS, Serving, serving, session_folders, wait_for
from tests.proxy.running import proxying

from hushlm.training import Checkpoint

NEW_TOKENS = 3

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where sessions put their folders."""
    folder = tmp_path_factory.mktemp("scratch")
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    yield folder
    os.environ.pop("TMPDIR")
    if before is not None:
        os.environ["TMPDIR"] = before


@pytest.fixture(scope="module")
def server(export_folder: Path, key_folder: Path, scratch: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(export_folder, key_folder, tmp_path_factory.mktemp("log") / "server.log", "--workers", "2") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


def running_proxy(export: Path, keys: Path, server: Serving, log: Path) -> contextlib.AbstractContextManager[Serving]:
    return proxying(keys, log, "--model", str(export / "client"), "--server", server.address)


@pytest.fixture(scope="module")
def proxy(export_folder: Path, key_folder: Path, server: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with running_proxy(export_folder, key_folder, server, tmp_path_factory.mktemp("log") / "proxy.log") as running:
        yield running
        assert "Traceback" not in running.log.read_text()


@pytest.fixture
def ask(proxy: Serving) -> Iterator[openai.OpenAI]:
    """As its users have it: retries by default."""
    with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", timeout=200) as client:
        yield client


def ended(server: Serving, proxy: Serving) -> bool:
    return not server.workers() and not proxy.workers()


def test_the_openai_client_gets_the_plaintext_answers(
    served_checkpoint: Checkpoint, ask: openai.OpenAI, server: Serving, proxy: Serving
) -> None:
    """Text and token ids, whole and as a stream that a stop string ends; two at a time."""
    encode, decode, greedy = served_checkpoint.tokenizer.encode, served_checkpoint.tokenizer.decode, served_checkpoint.model.greedy
    prompts = [encode(prompt).ids for prompt in PROMPTS]
    answers = [greedy(prompt, NEW_TOKENS) for prompt in prompts]
    plain = decode(answers[1])
    assert len(set(plain)) > 1

    def streamed() -> list[openai.types.Completion]:
        stream = ask.completions.create(
            model="hush",
            prompt=prompts[1],
            max_tokens=NEW_TOKENS,
            stop=plain[1],
            logprobs=2,
            echo=False,
            stream=True,
            stream_options={"include_usage": True},
        )
        return list(stream)

    with ThreadPoolExecutor() as pool:
        future = pool.submit(streamed)
        whole = ask.completions.create(model="hush", prompt=PROMPTS[0], max_tokens=NEW_TOKENS, echo=True)
        chunks = future.result()
    assert [choice.text for choice in whole.choices] == [PROMPTS[0] + decode(answers[0])]
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (len(prompts[0]), NEW_TOKENS)

    *pieces, usage = chunks
    choices = [chunk.choices[0] for chunk in pieces]
    assert "".join(choice.text for choice in choices) == plain.partition(plain[1])[0]
    assert [choice.finish_reason for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == len(choices) < NEW_TOKENS
    with torch.no_grad():
        logits = served_checkpoint.model(torch.tensor([prompts[1]])).logits_BTV[0, -1]
    first = choices[0].logprobs
    assert first is not None
    assert first.token_logprobs == pytest.approx([torch.log_softmax(logits, -1).max().item()], abs=0.05)

    # The stream was over before its session, which goes on to the last token, so that its end tells nothing.
    wait_for(lambda: proxy.log.read_text().count("finished after") == 2, 60, "the end of both sessions")
    wait_for(lambda: server.log.read_text().count("finished") == 2, 10, "the server's last words")
    assert "given up" not in server.log.read_text()
    for log in (server.log, proxy.log):
        assert not any(text in log.read_text() for text in (*PROMPTS, decode(answers[0]) + decode(answers[1])))


def test_who_hangs_up_ends_the_session(ask: openai.OpenAI, server: Serving, proxy: Serving, scratch: Path) -> None:
    """Of a stream after its first token, and of a whole answer by a timeout; the proxy goes on."""
    stream = ask.completions.create(model="hush", prompt=PROMPTS[0], max_tokens=17, stream=True)
    assert next(iter(stream)).choices[0].finish_reason is None
    assert len(server.workers()) == len(proxy.workers()) == 1
    stream.close()
    wait_for(lambda: ended(server, proxy), 15, "the end of the session")
    with pytest.raises(openai.APITimeoutError):
        ask.with_options(timeout=3, max_retries=0).completions.create(model="hush", prompt=PROMPTS[0])
    wait_for(lambda: ended(server, proxy), 15, "the end of the session")
    wait_for(lambda: session_folders(scratch) == [], 10, "no session folder left")
    assert [model.id for model in ask.models.list()] == ["hush"]


def test_a_session_that_broke_is_not_repeated(ask: openai.OpenAI, server: Serving, proxy: Serving) -> None:
    """Not even by the openai client, which repeats other errors of servers by itself."""
    begun = proxy.log.read_text().count("tokens, reveal")

    def kill() -> None:
        os.kill(server.worker(60), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(openai.InternalServerError, match="ended by signal 9") as error:
        ask.completions.create(model="hush", prompt=PROMPTS[0])
    killer.join()
    assert error.value.status_code == 502
    assert error.value.code == "session_failed"
    wait_for(lambda: ended(server, proxy), 15, "the end of the session")
    assert proxy.log.read_text().count("tokens, reveal") == begun + 1


def test_a_proxy_that_is_stopped_gives_its_sessions_up(
    export_folder: Path, key_folder: Path, server: Serving, tmp_path: Path, scratch: Path
) -> None:
    with running_proxy(export_folder, key_folder, server, tmp_path / "proxy.log") as proxy, ThreadPoolExecutor() as pool:
        with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", max_retries=0) as client:
            asked = pool.submit(client.completions.create, model="hush", prompt=PROMPTS[0])
            server.worker(60)
            proxy.process.send_signal(signal.SIGTERM)
            with pytest.raises(openai.InternalServerError, match="The proxy was stopped"):
                asked.result(30)
        assert proxy.process.wait(15) == 0, proxy.log.read_text()
        assert "Traceback" not in proxy.log.read_text()
    wait_for(lambda: not server.workers(), 15, "the end of the session")
    wait_for(lambda: session_folders(scratch) == [], 10, "no session folder left")
