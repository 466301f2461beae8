"""The endpoint: `/v1/completions`, `/v1/chat/completions`, `/v1/models`, and a sentence for everything else."""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hushlm.private.client.client import Client
from hushlm.private.client.preparing import check_lengths, usual_prompt_tokens
from hushlm.private.client.run_session import Question
from hushlm.private.program.description import RevealPolicy
from hushlm.private.session.messages import printable
from hushlm.private.session.sent_sample import SentSample
from hushlm.proxy.answer_response import AnswerResponse
from hushlm.proxy.background_preparation import BackgroundPreparation
from hushlm.proxy.chat.builder import ChatBuilder
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.chat.questions import DEFAULT_CHAT_TOKENS, chat_questions_of
from hushlm.proxy.chat.schema import read_chat
from hushlm.proxy.completions.builder import CompletionBuilder
from hushlm.proxy.completions.questions import DEFAULT_NEW_TOKENS, questions_of
from hushlm.proxy.completions.schema import CompletionRequest, read_completion
from hushlm.proxy.errors import ApiError, internal_error
from hushlm.proxy.models import Models, ServedModel, check_name
from hushlm.proxy.page.documents import estimate_document, progress_document
from hushlm.proxy.page.files import page_file
from hushlm.proxy.request_sessions import RequestSessions, SessionPool

__all__ = ["ProxySettings", "application", "session_pool"]

MINIMUM_BODY_LIMIT_BYTES, BODY_BYTES_PER_TOKEN = 1 << 20, 1024
"""A request's body may have this many bytes for each token of the model's context, which is 64 for each of its 16 prompts, and at least a
mebibyte: a longer one does not fit the model, and would stop all other requests while it is read."""

log = logging.getLogger("hushlm.proxy")


@dataclass(frozen=True)
class ProxySettings:
    """What the endpoint does.

    Attributes:
        model: id of the served model, for requests and lists, where a client is given and no list of models.
        created: when that model was exported, in Unix seconds.
        reveal: most that a request may have revealed to this side.
        sessions: how many private sessions may run at a time.
        waiting: how many more may wait for a place.
        new_tokens: how many tokens a choice may ask for at most; None leaves the context as the limit.
        end_early: whether a session ends with its text, see `SessionPool`.
        api_key: the key that requests must carry; None asks for none.
        keep_prepared: how many prepared answers to keep for each model, made while nobody asks; 0 makes none.
        tokens_each: how many tokens each of them has.
        prompt_tokens: length of their prompts; None takes the shortest.
        draft: how many tokens each pass of them guesses.
        hosts: names in the `host` header under which requests are answered; None allows all. Where only this machine can reach the proxy,
            another name means that a web page has a browser speak to it under a false name.
    """

    model: str = "hush"
    created: int = 0
    reveal: RevealPolicy = RevealPolicy()
    sessions: int = 1
    waiting: int = 32
    new_tokens: int | None = None
    end_early: bool = False
    api_key: str | None = None
    keep_prepared: int = 0
    tokens_each: int = DEFAULT_NEW_TOKENS
    prompt_tokens: int | None = None
    draft: int = 0
    hosts: tuple[str, ...] | None = ("127.0.0.1", "localhost", "::1")

    @property
    def chat_tokens(self) -> int:
        """How many tokens a chat answer has at most where the request does not say: as many as are prepared, where the proxy prepares."""
        return self.tokens_each if self.keep_prepared else DEFAULT_CHAT_TOKENS

    def __post_init__(self) -> None:
        check_name(self.model)
        if self.sessions < 1 or self.waiting < 0:
            raise ValueError("A proxy needs at least one session at a time, and room for 0 or more to wait.")
        if self.keep_prepared < 0 or self.tokens_each < 1:
            raise ValueError("A proxy keeps 0 or more prepared answers, of at least one token each.")
        if self.new_tokens is not None and self.new_tokens < 1:
            raise ValueError(f"A request must be allowed at least one token, not {self.new_tokens}.")


def application(models: Client | Sequence[ServedModel], settings: ProxySettings, pool: SessionPool | None = None) -> Starlette:
    """An ASGI application that asks private servers.

    Args:
        models: those that requests may name; or the client of a single one, which chats by the plain template.
        settings: what the endpoint does.
        pool: the room for sessions; made from the settings by default.
    """
    if isinstance(models, Client):
        models = [ServedModel(settings.model, models, settings.created, ChatFormat.of(models.tokenizer))]
    endpoint = _Endpoint(Models(models), settings, pool or session_pool(settings))
    preparations = [_preparation(model.client, settings, endpoint.pool) for model in models] if settings.keep_prepared else []

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        preparing = [asyncio.create_task(preparation.run()) for preparation in preparations]
        yield
        for task in preparing:
            task.cancel()
        await asyncio.gather(*preparing, return_exceptions=True)
        await endpoint.pool.close()

    routes = [
        Route("/", endpoint.page),
        Route("/static/{name}", endpoint.page),
        Route("/page/estimate", endpoint.estimate, methods=["POST"]),
        Route("/page/completions", endpoint.watched_completions, methods=["POST"]),
        Route("/v1/completions", endpoint.completions, methods=["POST"]),
        Route("/v1/chat/completions", endpoint.chat, methods=["POST"]),
        Route("/v1/models", endpoint.models),
        Route("/v1/models/{model}", endpoint.one_model),
        Route("/health", endpoint.health),
    ]
    handlers: dict[Any, Any] = {ApiError: _api_error, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _internal_error}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def _preparation(client: Client, settings: ProxySettings, pool: SessionPool) -> BackgroundPreparation:
    """Raises: ValueError, if the lengths of prepared answers do not fit the context."""
    context, tokens_each = client.description.shape.context, settings.tokens_each
    prompt_tokens = settings.prompt_tokens or usual_prompt_tokens(context, tokens_each, settings.draft)
    check_lengths(context, settings.keep_prepared, tokens_each, prompt_tokens, settings.draft)
    return BackgroundPreparation(client, pool, settings.keep_prepared, prompt_tokens, tokens_each, settings.draft)


def session_pool(settings: ProxySettings) -> SessionPool:
    """The room for sessions that the settings ask for."""
    return SessionPool(settings.sessions, settings.waiting, settings.end_early)


def _contained(endpoint: Callable[[_Endpoint, Request], Awaitable[Response]]) -> Callable[[_Endpoint, Request], Awaitable[Response]]:
    """An endpoint whose every exception is an `ApiError`; what escapes it would be logged by the HTTP server, with its message."""

    @functools.wraps(endpoint)
    async def run(self: _Endpoint, request: Request) -> Response:
        try:
            return await endpoint(self, request)
        except (ApiError, HTTPException, ClientDisconnect):
            raise
        except Exception as error:
            raise internal_error(endpoint.__name__, error) from None

    return run


class _Endpoint:
    def __init__(self, models: Models, settings: ProxySettings, pool: SessionPool) -> None:
        self._models, self._settings, self.pool = models, settings, pool
        self._body_limit_bytes = max(MINIMUM_BODY_LIMIT_BYTES, BODY_BYTES_PER_TOKEN * models.context)

    @_contained
    async def completions(self, request: Request) -> Response:
        wanted, client, questions = await self._read(request)
        completion = CompletionBuilder(wanted, questions, client.tokenizer, client.description.fingerprint[:12])
        return AnswerResponse(RequestSessions(client, self.pool, questions, completion.name), completion, bool(wanted.stream))

    @_contained
    async def watched_completions(self, request: Request) -> Response:
        """`completions` as a stream that tells progress as well, for the page."""
        self._admit_page(request)
        wanted, client, questions = await self._read(request)
        completion = CompletionBuilder(wanted, questions, client.tokenizer, client.description.fingerprint[:12])
        samples = [SentSample() for _ in questions]
        sessions = RequestSessions(client, self.pool, questions, completion.name, [sample.note for sample in samples])
        return AnswerResponse(sessions, completion, True, lambda index, progress: progress_document(samples[index], index, progress))

    @_contained
    async def estimate(self, request: Request) -> Response:
        self._admit_page(request)
        _, client, questions = await self._read(request)
        return JSONResponse(await asyncio.to_thread(estimate_document, client, questions))

    @_contained
    async def page(self, request: Request) -> Response:
        self._check_host(request)
        self._check_page()
        return page_file(request.path_params.get("name", "index.html"))

    async def _read(self, request: Request) -> tuple[CompletionRequest, Client, list[Question]]:
        self._admit(request)
        wanted = read_completion(await _body(request, self._body_limit_bytes), self._models.context)
        client, settings = self._models.get(wanted.model).client, self._settings
        return wanted, client, questions_of(wanted, client.tokenizer, client.description, settings.reveal, settings.new_tokens)

    @_contained
    async def chat(self, request: Request) -> Response:
        self._admit(request)
        wanted = read_chat(await _body(request, self._body_limit_bytes), self._models.context)
        served, settings = self._models.get(wanted.model), self._settings
        if served.chat is None:
            raise ApiError(
                404, f"Chat is switched off for {served.name} (--chat-template off): use /v1/completions.", "unsupported_endpoint", "model"
            )
        client = served.client
        limits = settings.reveal, settings.new_tokens, settings.chat_tokens
        questions = chat_questions_of(wanted, served.chat, client.description, *limits)
        answer = ChatBuilder(wanted, questions, client.tokenizer, served.chat, client.description.fingerprint[:12])
        return AnswerResponse(RequestSessions(client, self.pool, questions, answer.name), answer, bool(wanted.stream))

    async def models(self, request: Request) -> Response:
        self._admit(request)
        data = [model.document(self._settings.reveal) for model in self._models.served.values()]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, request: Request) -> Response:
        self._admit(request)
        return JSONResponse(self._models.get(request.path_params["model"]).document(self._settings.reveal))

    async def health(self, _request: Request) -> Response:
        return JSONResponse({"status": "ok", "sessions": self.pool.running})

    def _admit(self, request: Request) -> None:
        """Raises ApiError: a false name, or the wrong key."""
        self._check_host(request)
        key = self._settings.api_key
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
            raise ApiError(401, "This is not the proxy's API key: use the one in the file that it was started with.", "invalid_api_key")

    def _check_host(self, request: Request) -> None:
        hosts = self._settings.hosts
        if hosts is not None and _host(request.headers.get("host", "")) not in hosts:
            raise ApiError(403, f"This proxy is for programs of its own machine, which call it {' or '.join(hosts)}.", "unknown_host")

    def _check_page(self) -> None:
        if self._settings.hosts is None:
            raise ApiError(404, "The page is shown on its own machine only: start the proxy on 127.0.0.1.", "unknown_url")

    def _admit_page(self, request: Request) -> None:
        """Raises ApiError: another page has the browser ask; it could not read what comes, but would set a session off."""
        self._check_page()
        if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            raise ApiError(403, "This is for the proxy's own page, and not for another one.", "unknown_origin")


def _host(header: str) -> str:
    """Of a `host` header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower()


async def _body(request: Request, limit_bytes: int) -> bytes:
    """The body of a request.

    Raises:
        ApiError: 415 if it is not said to be JSON; 413 if it is larger than the limit.
    """
    # A web page can have a browser send other types here without asking first, but not this one.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "A request's body is JSON: send it with the header content-type: application/json.", "unsupported_media_type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit_bytes:
            raise ApiError(413, f"The request is larger than {limit_bytes} bytes, more than this model reads.", "request_too_large")
    return bytes(body)


async def _api_error(_request: Request, error: ApiError) -> Response:
    return error.response()


async def _http_error(request: Request, error: HTTPException) -> Response:
    known = "This proxy has POST /v1/completions, POST /v1/chat/completions, GET /v1/models and GET /health"
    return ApiError(error.status_code, f"{known}, and not {request.method} {printable(request.url.path)}.", "unknown_url").response()


async def _gone(_request: Request, _: Exception) -> Response:
    return Response(status_code=499)


async def _internal_error(_request: Request, _: Exception) -> Response:
    return ApiError(500, "The proxy failed on an internal error: see its log.", "internal_error", retry=False).response()
