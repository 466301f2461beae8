"""The proxy's requests and texts without a server: what is refused and how, and what a request is allowed to reveal."""

from __future__ import annotations

import asyncio
import json
import re
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
from hushlm.data.tokenizer import Tokenizer
from hushlm.private.client.client import Client, ClientSettings, Progress
from hushlm.private.client.retries import Retries
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.description import RevealPolicy
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.private.session.messages import UnaskableError
from hushlm.proxy.application import ProxySettings, application
from hushlm.proxy.assembly import TextAssembler
from hushlm.proxy.completions.builder import CompletionBuilder
from hushlm.proxy.completions.questions import questions_of
from hushlm.proxy.completions.schema import CompletionRequest, read_completion
from hushlm.proxy.errors import ApiError
from hushlm.proxy.request_sessions import SessionPool

KEY = "sk-0123456789abcdef"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def client(export_folder: Path, key_folder: Path) -> Client:
    """Of a server that is not there."""
    return Client(export_folder / "client", "127.0.0.1:1", key_folder, settings=ClientSettings(retries=Retries(1, first_seconds=0.01)))


@pytest.fixture(scope="module")
def tokenizer(client: Client) -> Tokenizer:
    """One token a byte."""
    return client.tokenizer


def send(client: Client, made: ProxySettings, method: str, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(application(client, made), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as http:
            return await http.request(method, path, **options)

    return asyncio.run(go())


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "hush", "prompt": "3 alpha", "max_tokens": 2} | changes


def refused(response: httpx.Response, status: int, *parts: str, parameter: str | None = None) -> None:
    """An error as OpenAI's clients read it, with one sentence."""
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
        ({"model": "gpt-5\x1b"}, 404, "no model 'gpt-5?' here: the only one is hush", "model"),
        ({"prompt": ""}, 400, "none may be empty", "prompt"),
        ({"prompt": []}, 400, "list of prompts is empty", "prompt"),
        ({"prompt": [[1], []]}, 400, "A prompt is empty", "prompt"),
        ({"prompt": ["a", 1]}, 400, "prompt must be a text", "prompt"),
        ({"prompt": [1, 256]}, 400, "outside 0 to 255", "prompt"),
        ({"prompt": [-1]}, 400, "outside 0 to 255", "prompt"),
        ({"prompt": "a" * 31}, 400, "31 tokens and max_tokens = 2 exceed the model's context of 32", "prompt"),
        ({"prompt": ["a"] * 17}, 400, "17 private sessions", "n"),
        ({"max_tokens": 0}, 400, "max_tokens: input should be greater", "max_tokens"),
        ({"max_tokens": "2"}, 400, "max_tokens: input should be a valid integer", "max_tokens"),
        ({"max_tokens": 9}, 400, "at most 8 tokens, not 9", "max_tokens"),
        ({"temperature": 0.5}, 400, "Sampling needs logits", "temperature"),
        ({"temperature": -1}, 400, "temperature: ", "temperature"),
        ({"top_p": 0}, 400, "top_p: ", "top_p"),
        ({"n": 2}, 400, "ask for n = 1", "n"),
        ({"n": 17}, 400, "n: input should be less", "n"),
        ({"best_of": 2}, 400, "best_of is not supported", "best_of"),
        ({"suffix": "end"}, 400, "suffix is not supported", "suffix"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not supported", "frequency_penalty"),
        ({"logit_bias": {"5": 1}}, 400, "logit_bias is not supported", "logit_bias"),
        ({"stop": ["a", "b", "c", "d", "e"]}, 400, "up to 4 texts", "stop"),
        ({"stop": ""}, 400, "none of them empty", "stop"),
        ({"logprobs": 2}, 400, "--reveal logits", "logprobs"),
        ({"logprobs": 2, "echo": True}, 400, "leave out echo or logprobs", "echo"),
        ({"stream_options": {"include_usage": True}}, 400, "set stream to true", "stream_options"),
        ({"stream": True, "stream_options": {"include": 1}}, 400, "stream_options.include", "stream_options"),
        ({"guided_json": {}}, 400, "guided_json is not a parameter", "guided_json"),
    ],
)
def test_what_cannot_be_done_is_named(client: Client, changes: dict[str, Any], status: int, part: str, parameter: str) -> None:
    response = send(client, ProxySettings(new_tokens=8), "POST", "/v1/completions", json=body(**changes))
    refused(response, status, part, parameter=parameter)


def test_a_missing_parameter_is_named(client: Client) -> None:
    for name in ("model", "prompt"):
        sent = {key: value for key, value in body().items() if key != name}
        refused(send(client, ProxySettings(), "POST", "/v1/completions", json=sent), 400, f"{name} is missing", parameter=name)


def test_what_is_no_request_is_told_apart(client: Client) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    for content in (b"", b"[]", b"{", b"null", b'"text"'):
        response = send(client, ProxySettings(), "POST", "/v1/completions", content=content, headers=headers)
        refused(response, 400, "not a JSON object")
    refused(send(client, ProxySettings(), "POST", "/v1/completions", data=body()), 415, "content-type: application/json")
    response = send(client, ProxySettings(), "POST", "/v1/completions", content=b" " * (5 << 20), headers=headers)
    refused(response, 413, "larger than")
    refused(send(client, ProxySettings(), "POST", "/v1/chat/completions", json={}), 400, "model is missing", parameter="model")
    refused(send(client, ProxySettings(), "POST", "/v1/embeddings", json={}), 404, "not POST /v1/embeddings")
    refused(send(client, ProxySettings(), "GET", "/v1/completions"), 405, "not GET /v1/completions")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b'{"model": "hush", "prompt": "a\\ud800"}', "lone surrogate (\\ud800) in prompt"),
        (b'{"model": "hush", "prompt": ["a", "\\udfff b"]}', "lone surrogate (\\udfff) in prompt"),
        (b'{"model": "hush", "prompt": "a", "stop": ["\\ud83d"]}', "lone surrogate (\\ud83d) in stop"),
        (b'{"model": "hush", "prompt": "a", "logit_bias": {"\\ude00": 1}}', "lone surrogate (\\ude00) in logit_bias"),
        (b'{"model": "hush", "prompt": "caf\xe9"}', "not UTF-8: byte 33 is 0xe9"),
        (b'{"prompt": ' + b"[" * 100_000, "not a JSON object"),
    ],
)
def test_what_is_no_text_is_named(client: Client, content: bytes, part: str) -> None:
    headers = {"content-type": "application/json"}
    refused(send(client, ProxySettings(), "POST", "/v1/completions", content=content, headers=headers), 400, part)


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert read_completion(b'{"model": "hush", "prompt": "\\ud83d\\ude00"}').prompt == "\U0001f600"


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"prompt": [1] * 300_000}, "A prompt of 300000 tokens exceeds the model's context of 32"),
        ({"prompt": [[1], ["a"] * 200_000]}, "A prompt of 200000 tokens exceeds"),
        ({"prompt": ["a"] * 150_000}, "150000 private sessions"),
        ({"prompt": [[1]] * 150_000}, "150000 private sessions"),
        ({"logit_bias": {str(token): "x" for token in range(50_000)}}, "logit_bias has 50000 entries"),
        ({str(name): 1 for name in range(50_000)}, "0 is not a parameter that this proxy knows"),
        ({"stop": ["a"] * 150_000}, "up to 4 texts"),
    ],
)
def test_far_too_much_is_refused_before_it_is_looked_at(changes: dict[str, Any], part: str) -> None:
    """Checking each part of such a body took up to fifteen seconds, in which the proxy answered nobody."""
    content = json.dumps(body(**changes)).encode()
    start = time.process_time()
    with pytest.raises(ApiError, match=re.escape(part)):
        read_completion(content, 32)
    assert time.process_time() - start < 1


SECRET = "what the answer says"


class Leaky(Client):
    """Its sessions, or what decodes their tokens, fail with the answer in the message: no real library can be made to."""

    async def events(self, *_: Any) -> AsyncGenerator[TokenAnswer | Progress, None]:
        yield TokenAnswer(97, None, None, Traffic())
        raise RuntimeError(SECRET)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["session", "builder", "endpoint"])
def test_an_exception_nobody_foresaw_keeps_the_contract_and_the_secret(
    export_folder: Path, key_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str, stream: bool
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError(SECRET)

    if where == "builder":
        monkeypatch.setattr("hushlm.proxy.answers.Choice.note", fail)
    if where == "endpoint":
        monkeypatch.setattr("hushlm.proxy.application.questions_of", fail)
    leaky = Leaky(export_folder / "client", "127.0.0.1:1", key_folder)

    async def go() -> httpx.Response:
        # An exception that left the application would be raised here.
        transport = httpx.ASGITransport(application(leaky, ProxySettings()), raise_app_exceptions=True)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as http:
            return await http.post("/v1/completions", json=body(stream=stream))

    response = asyncio.run(go())
    if stream and where == "session":
        assert response.status_code == 200
        first, last = response.text.strip().split("\n\n")
        assert json.loads(first.removeprefix("data: "))["choices"][0]["text"] == "a"
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "internal_error"
        assert "[DONE]" not in response.text
    else:
        refused(response, 500, "internal error")
        assert response.headers["x-should-retry"] == "false"
    assert "RuntimeError" in caplog.text
    assert SECRET not in caplog.text + response.text


def test_a_prompt_that_cannot_be_asked_is_the_callers(export_folder: Path, key_folder: Path) -> None:
    class Choosy(Client):
        async def events(self, *_: Any) -> AsyncGenerator[TokenAnswer | Progress, None]:
            raise UnaskableError("Change a word.")
            yield

    response = send(Choosy(export_folder / "client", "127.0.0.1:1", key_folder), ProxySettings(), "POST", "/v1/completions", json=body())
    refused(response, 400, "Change a word.")
    assert response.json()["error"]["code"] == "unaskable_prompt"
    assert response.headers["x-should-retry"] == "false"


def test_models_are_listed(client: Client) -> None:
    made = ProxySettings(model="mine", created=7)
    [listed] = send(client, made, "GET", "/v1/models").json()["data"]
    assert listed == send(client, made, "GET", "/v1/models/mine").json()
    assert (listed["id"], listed["created"], listed["context_length"], listed["object"]) == ("mine", 7, 32, "model")
    refused(send(client, made, "GET", "/v1/models/other"), 404, "the only one is mine", parameter="model")


def test_only_its_own_machine_and_holders_of_the_key_are_answered(client: Client) -> None:
    refused(send(client, ProxySettings(), "GET", "/v1/models", headers={"host": "evil.example:8080"}), 403, "its own machine")
    assert send(client, ProxySettings(), "GET", "/v1/models", headers={"host": "[::1]:8080"}).status_code == 200
    assert send(client, ProxySettings(hosts=None), "GET", "/v1/models", headers={"host": "proxy.example"}).status_code == 200
    made = ProxySettings(api_key=KEY)
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": f"Bearer {KEY}x"}):
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("POST", "/v1/chat/completions")):
            refused(send(client, made, method, path, headers=headers), 401, "API key")
    assert send(client, made, "GET", "/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert send(client, made, "GET", "/health").json() == {"status": "ok", "sessions": 0}


@pytest.mark.timeout(180)
def test_a_server_that_is_not_there_may_be_asked_again(client: Client) -> None:
    """Where nothing has begun; with several sessions that is not known of each."""
    alone = send(client, ProxySettings(), "POST", "/v1/completions", json=body(user="somebody", suffix=None, n=1, best_of=1))
    refused(alone, 503, "No server can be reached at 127.0.0.1:1")
    assert "x-should-retry" not in alone.headers
    streamed = send(client, ProxySettings(), "POST", "/v1/completions", json=body(stream=True))
    refused(streamed, 503, "No server can be reached")
    several = send(client, ProxySettings(sessions=2), "POST", "/v1/completions", json=body(prompt=["a", "b"]))
    refused(several, 503, "No server can be reached")
    assert several.headers["x-should-retry"] == "false"


def test_there_is_room_for_so_many() -> None:
    async def go() -> None:
        places = SessionPool(sessions=1, waiting=2, end_early=False)
        places.take(2)
        with pytest.raises(ApiError, match="as many questions as it takes"):
            places.take(2)
        places.take(1)
        places.give_back()
        places.take(1)
        with pytest.raises(ApiError, match="4 private sessions, and this proxy has room for 3"):
            places.take(4)

    asyncio.run(go())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("stream", [False, True])
def test_one_too_many_is_told_to_come_back(client: Client, stream: bool) -> None:
    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(application(client, ProxySettings(sessions=1, waiting=0)), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8080") as http:
            return await asyncio.gather(*(http.post("/v1/completions", json=body(stream=stream)) for _ in range(2)))

    first, second = sorted(asyncio.run(go()), key=lambda response: -response.status_code)
    refused(first, 503, "No server can be reached")
    refused(second, 429, "wait for an answer")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(CompletionRequest.model_fields)), JSON, max_size=3))
def test_any_request_becomes_questions_or_a_sentence(client: Client, changes: dict[str, Any]) -> None:
    refusal = None
    try:
        request = read_completion(json.dumps(body(**changes)).encode())
        asked = questions_of(request, client.tokenizer, client.description, RevealPolicy.parse("logits"), None)
    except ApiError as error:
        refusal = error
    if refusal is not None:
        refused(httpx.Response(refusal.status, content=bytes(refusal.response().body)), 400, parameter=refusal.parameter)
        return
    assert len(asked) == len(request.prompts) * (request.n or 1)
    assert all(len(question.prompt_tokens) + question.new_tokens <= 32 for question in asked)


def questions(client: Client, most: str, **changes: Any) -> list[Any]:
    return questions_of(
        read_completion(json.dumps(body(**changes)).encode()), client.tokenizer, client.description, RevealPolicy.parse(most), None
    )


def test_no_more_is_revealed_than_a_request_needs(client: Client) -> None:
    for changes in ({}, {"temperature": 0, "top_p": 0.5, "seed": 1}, {"stop": "x", "echo": True}):
        assert [str(question.reveal) for question in questions(client, "logits", **changes)] == ["token"]
    assert str(questions(client, "topk:5", temperature=1)[0].reveal) == "topk:5"
    assert str(questions(client, "logits", logprobs=0)[0].reveal) == "logits"


def test_seeds_tell_answers_apart_and_give_them_again(client: Client) -> None:
    drawn = questions(client, "topk:5", temperature=1, n=3, prompt=["a", "b"], seed=-7)
    assert len({question.sampling.seed for question in drawn[:3]}) == 3
    assert drawn == questions(client, "topk:5", temperature=1, n=3, prompt=["a", "b"], seed=-7)
    assert questions(client, "topk:5", temperature=1) != questions(client, "topk:5", temperature=1)


def shown(assembler: TextAssembler, tokens: list[int]) -> list[str]:
    pieces = [assembler.push(token) for token in tokens]
    return [*pieces, assembler.finish()]


@given(text=st.text(max_size=30))
def test_whole_characters_come_out(tokenizer: Tokenizer, text: str) -> None:
    pieces = shown(TextAssembler(tokenizer), tokenizer.encode(text).ids)
    assert "".join(pieces) == text
    assert all(piece in text for piece in pieces)


@given(tokens=st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_come_out_as_decoded_at_once(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert "".join(shown(TextAssembler(tokenizer), tokens)) == tokenizer.decode(tokens)


@given(text=st.text("ab\u00e9", max_size=20), stops=st.lists(st.text("ab\u00e9", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_text_ends_before_the_first_stop_string_to_be_complete(tokenizer: Tokenizer, text: str, stops: list[str]) -> None:
    assembler = TextAssembler(tokenizer, stops)
    pieces = shown(assembler, tokenizer.encode(text).ids)
    ends = [end for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)]
    wanted = text[: min(text[: ends[0]].find(stop) for stop in stops if stop in text[: ends[0]])] if ends else text
    assert "".join(pieces) == wanted == assembler.text
    assert assembler.stopped == bool(ends)
    # Piece by piece, nothing of a stop string is ever seen.
    assert not any(stop in "".join(pieces) for stop in stops)


@pytest.fixture
def logits_of_answer() -> list[np.ndarray]:
    generator = np.random.default_rng(4)
    return [generator.normal(0, 3, 256) for _ in range(3)]


def test_log_probabilities_are_those_of_all_logits(client: Client, logits_of_answer: list[np.ndarray]) -> None:
    asked = {"logprobs": 3, "max_tokens": 3, "temperature": 1}
    request = read_completion(json.dumps(body(**asked)).encode())
    completion = CompletionBuilder(request, questions(client, "logits", **asked), client.tokenizer, "f" * 12)
    tokens = client.tokenizer.encode("hm.").ids
    for token, logits in zip(tokens, logits_of_answer, strict=True):
        completion.note(0, TokenAnswer(token, None, logits, Traffic()))
    [choice] = completion.whole()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("hm.", "length")
    wanted = torch.log_softmax(torch.tensor(np.array(logits_of_answer)), dim=-1)
    found = choice["logprobs"]
    assert found["tokens"] == ["h", "m", "."]
    assert found["text_offset"] == [0, 1, 2]
    assert found["token_logprobs"] == pytest.approx([float(row[token]) for row, token in zip(wanted, tokens, strict=True)])
    for row, named in zip(wanted, found["top_logprobs"], strict=True):
        assert list(named.values()) == pytest.approx(row.topk(3).values.tolist())


def test_a_prompt_with_several_answers_is_counted_once(client: Client) -> None:
    asked = {"prompt": ["abc", "de"], "n": 2, "temperature": 1, "max_tokens": 4, "stop": "!", "echo": True}
    request = read_completion(json.dumps(body(**asked)).encode())
    completion = CompletionBuilder(request, questions(client, "topk:2", **asked), client.tokenizer, "f" * 12)
    for index, answer in enumerate(("12345"[:4], "1!", "abcd", "xyz!")):
        for token in client.tokenizer.encode(answer).ids:
            chunk = completion.note(index, TokenAnswer(token, [(token, 1.0)], None, Traffic()))
    assert chunk["choices"][0]["finish_reason"] == "stop"
    whole = completion.whole()
    assert [choice["text"] for choice in whole["choices"]] == ["abc1234", "abc1", "deabcd", "dexyz"]
    assert [choice["finish_reason"] for choice in whole["choices"]] == ["length", "stop", "length", "stop"]
    assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 14, "total_tokens": 19}


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--listen", "0.0.0.0:0"], "--expose"),
        (["--listen", "0.0.0.0:0", "--expose"], "--api-key-file"),
        (["--listen", "nowhere"], "HOST:PORT"),
        (["--name", "a/b"], "no slashes"),
        (["--sessions", "0"], "at least one session"),
        (["--reveal", "all"], "topk:K"),
        (["--retries", "-1"], "must not be negative"),
        (["--api-key-file", "absent"], "There is no absent"),
    ],
)
def test_a_proxy_that_cannot_start_says_why(
    export_folder: Path, key_folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], part: str
) -> None:
    given = ["--model", str(export_folder / "client"), "--keys", str(key_folder), "--listen", "127.0.0.1:0", *options]
    assert main(["proxy", *given]) == 2
    err = capsys.readouterr().err
    assert err.startswith("hushlm: ")
    assert err.count("\n") == 1
    assert part in err


def test_a_key_is_a_secret(tmp_path: Path) -> None:
    from hushlm.proxy.serving import read_api_key

    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    path.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        read_api_key(path)
    path.chmod(0o600)
    assert read_api_key(path) == KEY
    path.write_text("short")
    with pytest.raises(ValueError, match="16 or more"):
        read_api_key(path)
