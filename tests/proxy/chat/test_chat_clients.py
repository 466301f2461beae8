"""Unmodified chat clients with a proxy: OpenAI's with two models and two servers behind it, the others in processes of their own.

The others read what the proxy says as OpenAI's does, so behind them the model answers in the clear (`clear_proxy.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("spu")
pytest.importorskip("openai")

import openai
from tests.private.service import PROMPTS, Serving, serving
from tests.proxy.running import proxying

from hushlm.files import MANIFEST
from hushlm.files.manifest import write_manifest
from hushlm.training import Checkpoint, load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.two_party, pytest.mark.timeout(400)]

SCRIPTS = Path(__file__).with_name("clients")
CLEAR_PROXY = Path(__file__).with_name("clear_proxy.py")

CLIENT_SECONDS = 150
"""How long a client's process may take: its imports, and two answers."""

FIRST, _, REST = PROMPTS[1].partition(" ")
TURNS: list[Any] = [{"role": "system", "content": FIRST}, {"role": "user", "content": REST}]
"""With the template of the model "turns", the prompt PROMPTS[1]."""

TEMPLATE = "{{ messages | map(attribute='content') | join(' ') }}"


@pytest.fixture(scope="module")
def expected(served_checkpoint: Checkpoint) -> list[int]:
    """The plaintext answer to PROMPTS[1] up to a token that is in neither the prompt nor the answer before it: this one shall end it."""
    prompt = served_checkpoint.tokenizer.encode(PROMPTS[1]).ids
    tokens = served_checkpoint.model.greedy(prompt, 8)
    end = next(place for place in range(1, 8) if tokens[place] not in prompt + tokens[:place])
    return tokens[: end + 1]


@pytest.fixture(scope="module")
def answer(served_checkpoint: Checkpoint, expected: list[int]) -> str:
    return served_checkpoint.tokenizer.decode(expected[:-1])


@pytest.fixture(scope="module")
def chat_export(served_checkpoint: Checkpoint, expected: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model as a checkpoint that has a chat template, and a token that ends its answers."""
    from hushlm.private.program.export_model import export_model

    folder = tmp_path_factory.mktemp("chat")
    shutil.copytree(served_checkpoint.folder, folder / "checkpoint")
    (folder / "checkpoint" / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "checkpoint" / "generation_config.json").write_text(json.dumps({"eos_token_id": expected[-1]}))
    (folder / "checkpoint" / MANIFEST).unlink()
    write_manifest(folder / "checkpoint")
    export_model(load_checkpoint(folder / "checkpoint"), folder / "export")
    assert (folder / "export/client/chat_template.jinja").read_text() == TEMPLATE
    assert not (folder / "export/server/chat_template.jinja").exists()
    return folder / "export"


@pytest.fixture(scope="module")
def proxy(export_folder: Path, chat_export: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """ "hush" chats by the plain template, "turns" by its own; each has its own server."""
    logs = tmp_path_factory.mktemp("logs")
    with (
        serving(export_folder, key_folder, logs / "first.log", "--workers", "2") as first,
        serving(chat_export, key_folder, logs / "second.log", "--workers", "2") as second,
    ):
        options: list[str] = []
        for name, export, server in (("hush", export_folder, first), ("turns", chat_export, second)):
            options += ["--model", str(export / "client"), "--name", name, "--server", server.address]
        with proxying(key_folder, logs / "proxy.log", *options) as running:
            yield running
            assert "Traceback" not in running.log.read_text()
            assert not any(text in running.log.read_text() for text in (REST, "alpha"))


@pytest.fixture(scope="module")
def clear_proxy(chat_export: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The model "turns", without a server: its answers are computed in the proxy's own process, in the clear."""
    log = tmp_path_factory.mktemp("log") / "proxy.log"
    program = (sys.executable, str(CLEAR_PROXY), str(chat_export.parent / "checkpoint"))
    options = ("--model", str(chat_export / "client"), "--name", "turns", "--server", "127.0.0.1:1")
    with proxying(key_folder, log, *options, program=program) as running:
        yield running
        assert "Traceback" not in log.read_text()


def run_client(command: list[str], proxy: Serving, **environment: str) -> str:
    """What a client's process prints. It gets no key of anybody's and is told not to fetch lists from the internet."""
    kept = {name: value for name, value in os.environ.items() if "KEY" not in name and "PROXY" not in name.upper()}
    base = {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"http://{proxy.address}/v1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    found = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        env=kept | base | environment,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def need(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


def test_openai_whole_and_as_a_stream_at_once(proxy: Serving, served_checkpoint: Checkpoint, expected: list[int], answer: str) -> None:
    """The synchronous client asks the model without a template of its own, the asynchronous one the other."""
    plain = "User: 1 alpha\nAssistant:"
    prompt = served_checkpoint.tokenizer.encode(plain).ids
    greedy = served_checkpoint.model.greedy(prompt, 3)

    def whole() -> Any:
        with openai.OpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", timeout=200) as client:
            assert [model.id for model in client.models.list()] == ["hush", "turns"]
            with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-5' here: there are hush, turns") as error:
                client.chat.completions.create(model="gpt-5", messages=TURNS)
            assert error.value.code == "model_not_found"
            image: Any = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
            with pytest.raises(openai.BadRequestError, match="reads text only"):
                client.chat.completions.create(model="hush", messages=[image])
            return client.chat.completions.create(
                model="hush",
                messages=[{"role": "user", "content": [{"type": "text", "text": "1 "}, {"type": "text", "text": "alpha"}]}],
                max_completion_tokens=3,
                logprobs=True,
                top_logprobs=2,
            )

    async def stream() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"http://{proxy.address}/v1", api_key="none", timeout=200) as client:
            chunks = await client.chat.completions.create(
                model="turns", messages=TURNS, max_tokens=len(expected) + 1, stream=True, stream_options={"include_usage": True}
            )
            return [chunk async for chunk in chunks]

    async def both() -> tuple[Any, list[Any]]:
        return await asyncio.gather(asyncio.to_thread(whole), stream())

    found, (*pieces, usage) = asyncio.run(both())
    [choice] = found.choices
    assert (choice.message.role, choice.message.content) == ("assistant", served_checkpoint.tokenizer.decode(greedy))
    assert choice.finish_reason == "length"
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.object) == (len(prompt), 3, "chat.completion")
    with torch.no_grad():
        logits = served_checkpoint.model(torch.tensor([prompt])).logits_BTV[0, -1]
    first = choice.logprobs.content[0]
    best = torch.log_softmax(logits, -1).topk(2)
    assert [first.logprob, first.top_logprobs[1].logprob] == pytest.approx([float(best.values[0]), float(best.values[1])], abs=0.05)
    assert bytes(first.bytes) == bytes(greedy[:1])

    deltas = [piece.choices[0].delta for piece in pieces]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == answer
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * (len(pieces) - 1) + ["stop"]
    assert {piece.object for piece in pieces} == {"chat.completion.chunk"}
    assert usage.choices == []
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (len(PROMPTS[1]), len(expected))


@pytest.mark.parametrize(("script", "package"), [("with_litellm.py", "litellm"), ("with_langchain.py", "langchain_openai")])
def test_a_library_chats_whole_and_as_a_stream(clear_proxy: Serving, expected: list[int], answer: str, script: str, package: str) -> None:
    need(package)
    printed = run_client([sys.executable, str(SCRIPTS / script), "turns", json.dumps(TURNS), str(len(expected))], clear_proxy)
    found = json.loads(printed.splitlines()[-1])
    assert found["whole"] == {"text": answer, "finish_reason": "stop", "completion_tokens": len(expected)}
    assert "".join(found["pieces"]) == answer


def test_the_llm_command_chats_and_completes(clear_proxy: Serving, tmp_path: Path, expected: list[int], answer: str) -> None:
    need("llm")
    base = f"http://{clear_proxy.address}/v1"
    models = [
        {"model_id": "private-chat", "model_name": "turns", "api_base": base},
        {"model_id": "private-completion", "model_name": "turns", "api_base": base, "completion": True},
    ]
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    options = ["-o", "max_tokens", str(len(expected)), "--no-log"]
    llm = [sys.executable, "-m", "llm"]
    chat = run_client([*llm, "-m", "private-chat", "--system", FIRST, REST, *options], clear_proxy, LLM_USER_PATH=str(tmp_path))
    assert chat == answer + "\n"
    stop = ["-o", "stop", json.dumps(["\n"])]
    completion = run_client([*llm, "-m", "private-completion", PROMPTS[1], *options, *stop], clear_proxy, LLM_USER_PATH=str(tmp_path))
    assert completion.startswith(answer)
