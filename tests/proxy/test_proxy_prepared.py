"""The proxy prepares while nobody asks, and answers from what it prepared."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("spu")
pytest.importorskip("openai")

import openai
from tests.private.service import HUSHLM, PROMPTS, READY, START_SECONDS, Serving, serving, wait_for

from hushlm.private.bundles import BundleStore
from hushlm.private.engine import Party
from hushlm.training import Checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(600)]

TOKENS = 2


@contextlib.contextmanager
def preparing_proxy(export: Path, keys: Path, address: str, store: Path, log: Path) -> Iterator[Serving]:
    command = [*HUSHLM, "proxy", "--model", str(export / "client"), "--keys", str(keys), "--server", address, "--listen", "127.0.0.1:0"]
    command += ["--keep-prepared", "2", "--tokens-each", str(TOKENS), "--prepared-folder", str(store)]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        ready = READY.search(process.stdout.readline())
        watchdog.cancel()
        assert ready, log.read_text()
        yield Serving(process, ready[1], log)
    finally:
        process.terminate()
        assert process.wait(30) == 0
        process.stdout.close()


def test_the_proxy_keeps_some_and_answers_from_them(
    served_checkpoint: Checkpoint, export_folder: Path, key_folder: Path, scratch: Path, tmp_path: Path
) -> None:
    with (
        serving(export_folder, key_folder, tmp_path / "server.log", "--prepare-folder", str(tmp_path / "server-shelf")) as server,
        preparing_proxy(export_folder, key_folder, server.address, tmp_path / "shelf", tmp_path / "proxy.log") as proxy,
    ):
        store = BundleStore(tmp_path / "shelf", Party.CLIENT, server.address)

        def kept(count: int) -> None:
            wait_for(lambda: len(store.list()) == count, 200, f"{count} prepared answers")

        kept(2)
        before = {info.identity for info in store.list()}
        with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", timeout=200) as client:
            prompt = served_checkpoint.tokenizer.encode(PROMPTS[0]).ids
            answer = client.completions.create(model="hush", prompt=PROMPTS[0], max_tokens=TOKENS)
        assert answer.choices[0].text == served_checkpoint.tokenizer.decode(served_checkpoint.model.greedy(prompt, TOKENS))
        assert answer.usage is not None
        assert answer.usage.model_extra == {"prepared": 1}
        left = {info.identity for info in store.list()}
        assert len(before & left) == 1
        kept(2)
        assert "preparing answers: made=2 held=2" in proxy.log.read_text()
        wait_for(lambda: "made=1 held=2" in proxy.log.read_text(), 60, "the line on the second preparation")
        server.process.kill()
        server.process.wait(10)
        with (
            openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", timeout=200, max_retries=0) as client,
            pytest.raises(openai.InternalServerError),
        ):
            client.completions.create(model="hush", prompt=PROMPTS[0], max_tokens=TOKENS)
        assert len(store.list()) == 2, "a question that found no server cost nothing"
        for text in (*PROMPTS, "Traceback"):
            assert text not in proxy.log.read_text()
