"""Chat requests without a server: what is refused and how, and the documents that answers become."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("spu")
pytest.importorskip("httpx")

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from hushlm.cli.main import main
from hushlm.data.chat_files import ChatFiles
from hushlm.private.client.client import Client, ClientSettings
from hushlm.private.client.retries import Retries
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import SessionError
from hushlm.proxy.application import ProxySettings, application
from hushlm.proxy.chat.builder import ChatBuilder
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.chat.questions import chat_questions_of
from hushlm.proxy.chat.schema import ChatRequest, read_chat
from hushlm.proxy.errors import ApiError
from hushlm.proxy.models import Models, ServedModel

BARE = "{{ messages | map(attribute='content') | join(' ') }}"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.floats(allow_nan=False) | st.text(max_size=8) | st.sampled_from(["text", "user"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["role", "content", "type", "text", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def client(export_folder: Path, key_folder: Path) -> Client:
    """Of a server that is not there."""
    return Client(export_folder / "client", "127.0.0.1:1", key_folder, settings=ClientSettings(retries=Retries(1, first_seconds=0.01)))


@pytest.fixture(scope="module")
def bare(client: Client) -> ChatFormat:
    """Nothing but the messages; an answer ends with "!"."""
    return ChatFormat.of(client.tokenizer, ChatFiles(BARE, {}, (ord("!"),)))


def post(
    models: Client | list[ServedModel], made: ProxySettings, asked: dict[str, Any], path: str = "/v1/chat/completions"
) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(application(models, made), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as http:
            return await http.post(path, json=asked)

    return asyncio.run(go())


def say(text: Any = "hm", role: str = "user", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text} | more


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "hush", "messages": [say()], "max_completion_tokens": 2} | changes


def refused(response: httpx.Response, status: int, *parts: str, parameter: str | None = None) -> None:
    assert response.status_code == status, response.text
    [(key, error)] = response.json().items()
    assert key == "error"
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == parameter
    assert error["message"].endswith(".")
    assert error["message"].isprintable()
    for part in parts:
        assert part in error["message"]


@pytest.mark.parametrize(
    ("changes", "status", "part", "parameter"),
    [
        ({"model": "gpt-5"}, 404, "no model 'gpt-5' here: the only one is hush", "model"),
        ({"messages": []}, 400, "list of messages is empty", "messages"),
        ({"messages": "hm"}, 400, "messages: input should be a valid array", "messages"),
        ({"messages": ["hm"]}, 400, "messages.0 is not an object", "messages"),
        (
            {"messages": [say(role="robot")]},
            400,
            "messages.0.role: input should be 'system', 'developer'",
            "messages",
        ),
        ({"messages": [{"role": "user"}]}, 400, "messages.0 has no content", "messages"),
        ({"messages": [say(7)]}, 400, "messages.0.content", "messages"),
        ({"messages": [say([])]}, 400, "messages.0 has 0 parts", "messages"),
        ({"messages": [say([{"type": "text"}])]}, 400, "messages.0.content", "messages"),
        (
            {"messages": [say([{"type": "image_url", "image_url": {"url": "x"}}])]},
            400,
            "part of type 'image_url', and this model reads text",
            "messages",
        ),
        ({"messages": [say([{"type": "input_audio\x1b", "input_audio": {}}])]}, 400, "'input_audio?'", "messages"),
        ({"messages": [say(role="tool", tool_call_id="1")]}, 400, "knows no tools", "messages"),
        ({"messages": [say(None, "assistant", tool_calls=[{"id": "1"}])]}, 400, "knows no tools", "messages"),
        ({"messages": [say(name="Ann")]}, 400, "messages.0: name is not supported", "messages"),
        ({"messages": [say(mood="calm")]}, 400, "messages.0.mood: extra", "messages"),
        (
            {"messages": [say("a" * 13)]},
            400,
            "30 tokens with its template, which with an answer of 3 exceed the model's context of 32",
            "messages",
        ),
        ({"messages": [say("a" * 40000)]}, 400, "more than", "messages"),
        ({"messages": [say("a")] * 33}, 400, "33 messages exceed the model's context of 32", "messages"),
        ({"messages": [say("a\0b")]}, 400, "control token", "messages"),
        ({"max_completion_tokens": 0}, 400, "max_completion_tokens: input should be greater", "max_completion_tokens"),
        ({"max_completion_tokens": 9}, 400, "at most 8 tokens, not 9", "max_completion_tokens"),
        ({"max_completion_tokens": None, "max_tokens": 9}, 400, "at most 8 tokens, not 9", "max_tokens"),
        ({"max_tokens": 3}, 400, "they differ", "max_completion_tokens"),
        ({"temperature": 0.5}, 400, "Sampling needs logits", "temperature"),
        ({"n": 2}, 400, "ask for n = 1", "n"),
        ({"logprobs": True}, 400, "--reveal logits", "logprobs"),
        ({"logprobs": 2}, 400, "logprobs: input should be a valid boolean", "logprobs"),
        ({"top_logprobs": 2}, 400, "set logprobs to true", "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "top_logprobs: ", "top_logprobs"),
        ({"stop": ""}, 400, "none of them empty", "stop"),
        ({"stream_options": {"include_usage": True}}, 400, "set stream to true", "stream_options"),
        ({"presence_penalty": 1}, 400, "presence_penalty is not supported", "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not supported", "response_format"),
        ({"tools": [{"type": "function"}]}, 400, "tools is not supported", "tools"),
        ({"modalities": ["audio"]}, 400, "modalities is not supported", "modalities"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort is not a parameter", "reasoning_effort"),
        ({"prompt": "a"}, 400, "prompt is not a parameter", "prompt"),
    ],
)
def test_what_cannot_be_done_is_named(client: Client, changes: dict[str, Any], status: int, part: str, parameter: str) -> None:
    asked = body(**({"max_completion_tokens": 3} if "exceed the model's context of 32" in part else {}) | changes)
    refused(post(client, ProxySettings(new_tokens=8), asked), status, part, parameter=parameter)


def test_values_that_ask_for_nothing_are_accepted(client: Client) -> None:
    """As far as the server, which is not there."""
    neutral = {"temperature": 0, "tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "store": False, "metadata": {}}
    more: dict[str, Any] = {
        "stop": None,
        "user": "me",
        "logprobs": False,
        "frequency_penalty": 0,
        "max_tokens": 2,
        "logit_bias": {},
        "seed": 3,
    }
    messages = [say("s", "developer"), say([{"type": "text", "text": "a"}]), say("b", "assistant", refusal=None, tool_calls=[]), say("c")]
    refused(post(client, ProxySettings(), body(messages=messages[:1], **neutral, **more)), 503, "No server can be reached")
    refused(
        post(client, ProxySettings(), body(stream=True, messages=messages[1:3], max_completion_tokens=1)), 503, "No server can be reached"
    )


def test_chat_that_is_switched_off_says_so(client: Client) -> None:
    off = [ServedModel("mute", client, chat=None)]
    refused(post(off, ProxySettings(), body(model="mute")), 404, "switched off for mute (--chat-template off)", parameter="model")


def test_a_request_names_its_model(client: Client, bare: ChatFormat) -> None:
    models = [ServedModel("a", client, 1, bare), ServedModel("b", client, 2)]
    refused(post(models, ProxySettings(), body(model="c")), 404, "there are a, b", parameter="model")
    refused(post(models, ProxySettings(), body(model="b")), 404, "switched off for b", parameter="model")
    completion = {"model": "b", "prompt": "hm", "max_tokens": 1}
    refused(post(models, ProxySettings(), completion, "/v1/completions"), 503, "No server can be reached")
    refused(post(models, ProxySettings(), completion | {"model": "c"}, "/v1/completions"), 404, "there are a, b", parameter="model")
    with pytest.raises(ValueError, match="same name"):
        Models([models[0], models[0]])
    with pytest.raises(ValueError, match="no slashes"):
        ServedModel("a/b", client)


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": [say("a")] * 100_000},
        {"messages": [say([{"type": "text", "text": "a"}] * 100_000)]},
        {"messages": [{str(number): 1 for number in range(100_000)}]},
        {"messages": [say([{"type": "text"} | {str(number): 1 for number in range(100_000)}])]},
        {"messages": [say("<|" * 500_000)]},
        {"tools": [{}] * 300_000},
    ],
)
def test_far_too_much_is_refused_before_it_is_looked_at(client: Client, bare: ChatFormat, asked: dict[str, Any]) -> None:
    content = json.dumps(body(**asked)).encode()
    start = time.process_time()
    with pytest.raises(ApiError):
        chat_questions_of(read_chat(content, 32), bare, client.description, RevealPolicy(), None)
    assert time.process_time() - start < 1


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(ChatRequest.model_fields)), JSON, max_size=3))
def test_any_request_becomes_questions_or_a_sentence(client: Client, bare: ChatFormat, changes: dict[str, Any]) -> None:
    try:
        request = read_chat(json.dumps(body(**changes)).encode())
        asked = chat_questions_of(request, bare, client.description, RevealPolicy.parse("logits"), None)
    except ApiError as error:
        refused(httpx.Response(error.status, content=bytes(error.response().body)), 400, parameter=error.parameter)
        return
    assert len(asked) == (request.n or 1)
    assert all(len(question.prompt_tokens) + question.new_tokens <= 32 for question in asked)


def questions(client: Client, chat: ChatFormat, most: str = "token", limit: int | None = None, **changes: Any) -> tuple[ChatRequest, Any]:
    request = read_chat(json.dumps(body(**changes)).encode())
    return request, chat_questions_of(request, chat, client.description, RevealPolicy.parse(most), limit)


def test_an_answer_without_a_length_gets_what_fits_and_is_allowed(client: Client, bare: ChatFormat) -> None:
    unsaid: dict[str, Any] = {"max_completion_tokens": None, "messages": [say("abcd")]}
    assert questions(client, bare, **unsaid)[1][0].new_tokens == 28
    assert questions(client, bare, limit=5, **unsaid)[1][0].new_tokens == 5
    assert questions(client, bare, **unsaid | {"max_tokens": 3})[1][0].new_tokens == 3


@pytest.mark.parametrize(("made", "expected"), [(ProxySettings(), 25), (ProxySettings(keep_prepared=1, tokens_each=7), 7)])
def test_an_answer_without_a_length_is_one_that_is_prepared(
    client: Client, bare: ChatFormat, monkeypatch: pytest.MonkeyPatch, made: ProxySettings, expected: int
) -> None:
    """A prepared answer is of use to no longer question, so that the usual 64 tokens would find none; here 25 fit the context."""
    asked: list[int] = []

    async def events(_: Client, __: Any, new_tokens: int, *___: Any) -> AsyncGenerator[TokenAnswer, None]:
        asked.append(new_tokens)
        raise SessionError("Enough.")
        yield

    monkeypatch.setattr(Client, "events", events)
    post([ServedModel("hush", client, 0, bare)], made, body(max_completion_tokens=None, messages=[say("a" * 7)]))
    assert asked == [expected]


def test_no_more_is_revealed_than_a_request_needs(client: Client, bare: ChatFormat) -> None:
    assert str(questions(client, bare, "logits")[1][0].reveal) == "token"
    assert str(questions(client, bare, "topk:5", temperature=1)[1][0].reveal) == "topk:5"
    assert str(questions(client, bare, "logits", logprobs=True)[1][0].reveal) == "logits"
    drawn = questions(client, bare, "topk:5", temperature=1, n=3, seed=9)[1]
    assert len({question.sampling.seed for question in drawn}) == 3


def told(text: str, logits: np.ndarray | None = None) -> list[TokenAnswer]:
    return [TokenAnswer(byte, None, logits, Traffic()) for byte in text.encode()]


def stream(builder: ChatBuilder, text: str, index: int = 0) -> list[dict[str, Any]]:
    chunks: list[dict[str, Any]] = []
    for answer in told(text):
        if not builder.ended(index):
            chunks += [chunk["choices"][0] for chunk in builder.chunks(index, answer)]
    return chunks


def built(client: Client, chat: ChatFormat, **changes: Any) -> ChatBuilder:
    request, asked = questions(client, chat, **changes)
    return ChatBuilder(request, asked, client.tokenizer, chat, "f" * 12)


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(client: Client, bare: ChatFormat) -> None:
    chunks = stream(built(client, bare, max_completion_tokens=3), "héy")
    assert chunks[0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunk["delta"].get("content") for chunk in chunks[1:-1]] == ["h", "é"]
    assert chunks[-1] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}
    assert all(chunk["finish_reason"] is None for chunk in chunks[:-1])


@pytest.mark.parametrize(
    ("template", "text", "stop", "shown"),
    [
        (BARE, "hm! no", None, "hm"),
        (BARE, "hm. no", [". ", "x"], "hm"),
        (None, " I.\nUser: no", None, " I."),
        (None, " I.\nUs", None, " I.\nUs"),
        (None, "a\0b", None, "a"),
    ],
)
def test_the_end_token_a_stop_string_and_the_next_turn_end_the_answer(
    client: Client, template: str | None, text: str, stop: list[str] | None, shown: str
) -> None:
    chat = ChatFormat.of(client.tokenizer, ChatFiles(template, {}, (ord("!"),)))
    builder = built(client, chat, messages=[say("")] if template is None else [say("a")], max_completion_tokens=len(text), stop=stop)
    chunks = stream(builder, text)
    assert "".join(chunk["delta"].get("content", "") for chunk in chunks) == shown
    reason = "length" if shown == text else "stop"
    assert chunks[-1]["finish_reason"] == reason
    [choice] = builder.whole()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (shown, reason)


def test_log_probabilities_are_those_of_all_logits(client: Client, bare: ChatFormat) -> None:
    logits = np.random.default_rng(4).normal(0, 3, 256)
    builder = built(client, bare, most="logits", logprobs=True, top_logprobs=2, max_completion_tokens=4, messages=[say("ab")])
    answers = told("h\u00e9", logits)
    found = [
        entry
        for answer in answers
        for chunk in builder.chunks(0, answer)
        for entry in (chunk["choices"][0]["logprobs"] or {}).get("content", [])
    ]
    builder.chunks(0, told("!", logits)[0])
    [choice] = builder.whole()["choices"]
    assert found == choice["logprobs"]["content"]
    wanted = torch.log_softmax(torch.tensor(logits), dim=-1)
    assert [entry["token"] for entry in found] == ["h", "token_id:195", "token_id:169"]
    assert [entry["bytes"] for entry in found] == [[104], None, None]
    assert [entry["logprob"] for entry in found] == pytest.approx([float(wanted[byte]) for byte in "h\u00e9".encode()])
    assert [top["logprob"] for top in found[0]["top_logprobs"]] == pytest.approx(wanted.topk(2).values.tolist())
    assert (choice["message"]["content"], choice["finish_reason"]) == ("h\u00e9", "stop")


def test_several_answers_are_told_apart(client: Client, bare: ChatFormat) -> None:
    builder = built(
        client,
        bare,
        most="topk:2",
        n=2,
        temperature=1,
        messages=[say("abc")],
        max_completion_tokens=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    stream(builder, "xy", 0)
    stream(builder, "z!", 1)
    whole = builder.whole()
    assert [(choice["index"], choice["message"]["content"], choice["finish_reason"]) for choice in whole["choices"]] == [
        (0, "xy", "length"),
        (1, "z", "stop"),
    ]
    assert whole["usage"] == {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    closing = builder.closing()
    assert closing is not None
    assert (closing["object"], closing["choices"], closing["usage"]) == ("chat.completion.chunk", [], whole["usage"])
    assert whole["object"] == "chat.completion"
    assert built(client, bare, stream=True).closing() is None


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--model", "MODEL"], "a --name for each --model: there are 2 models and 1 names"),
        (["--model", "MODEL", "--name", "a", "--name", "a"], "same name"),
        (
            ["--model", "MODEL", "--name", "a", "--name", "b", "--server", "h:1", "--server", "h:2", "--server", "h:3"],
            "--server once, or once for each",
        ),
        (["--model", "absent", "--name", "a", "--name", "b"], "no folder absent"),
        (["--chat-template", "absent"], "--chat-template: there is no file absent"),
        (["--chat-template", "BROKEN"], "not one that Jinja can read"),
    ],
)
def test_a_proxy_that_cannot_start_says_why(
    export_folder: Path, key_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], part: str
) -> None:
    (tmp_path / "broken.jinja").write_text("{% for %}")
    names = {"MODEL": str(export_folder / "client"), "BROKEN": str(tmp_path / "broken.jinja")}
    given = ["--model", names["MODEL"], "--keys", str(key_folder), "--listen", "127.0.0.1:0"]
    assert main(["proxy", *given, *(names.get(option, option) for option in options)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hushlm: ")
    assert err.count("\n") == 1
    assert part in err


def test_files_of_conversations_in_an_export_belong_to_it(export_folder: Path, tmp_path: Path) -> None:
    """A template that was put there afterwards is refused as any altered export is."""
    shutil.copytree(export_folder / "client", tmp_path / "client")
    (tmp_path / "client" / "chat_template.jinja").write_text("x")
    assert main(["proxy", "--model", str(tmp_path / "client"), "--keys", str(tmp_path)]) == 2
