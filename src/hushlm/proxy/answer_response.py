"""One answer as an HTTP response, whole or as a stream of events. A caller who hangs up ends the private sessions behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hushlm.private.client.progress import Progress
from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.answers import AnswerBuilder
from hushlm.proxy.errors import ApiError, internal_error
from hushlm.proxy.request_sessions import RequestSessions
from hushlm.report.question import describe

__all__ = ["AnswerResponse"]

BEAT_SECONDS = 5.0
"""Time between two comments in a stream: tokens take long, and many programs close a connection that says nothing."""


class _CallerGoneError(Exception):
    """The caller closed the connection."""


class AnswerResponse(Response):
    """Runs the sessions of a request for as long as the caller stays, and answers with what they bring.

    Args:
        sessions: the request's sessions, which are started here.
        completion: makes OpenAI's documents of what the sessions bring.
        stream: whether to answer with server-sent events.
        progress_document: makes an event of the stream of a choice's number and a report of its progress; without it there are none.
    """

    def __init__(
        self,
        sessions: RequestSessions,
        completion: AnswerBuilder,
        stream: bool,
        progress_document: Callable[[int, Progress], dict[str, Any]] | None = None,
    ) -> None:
        self.background = None
        self._progress_document = progress_document
        self._sessions, self._completion, self._stream = sessions, completion, stream
        self._started = False
        self._progress = "waiting for a place"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._sessions, asyncio.TaskGroup() as group:
                beside = [group.create_task(self._watch(receive))]
                if self._stream:
                    beside.append(group.create_task(self._beat(send)))
                try:
                    await self._answer(scope, receive, send)
                finally:
                    for task in beside:
                        task.cancel()
        except* (_CallerGoneError, OSError):
            pass

    async def _watch(self, receive: Receive) -> None:
        """Raises: _CallerGoneError, when the connection closes."""
        while (await receive())["type"] != "http.disconnect":
            pass
        raise _CallerGoneError

    async def _beat(self, send: Send) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            await self._frame(send, f": {self._progress}")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await self._complete(send)
        except ApiError as error:
            response = await self._fail(error, send)
        except OSError:  # of the caller's connection
            raise
        except Exception as error:
            response = await self._fail(internal_error(self._completion.name, error), send)
        if response is not None:
            await response(scope, receive, send)

    async def _complete(self, send: Send) -> Response | None:
        """Pass the answers on as they come. Returns: the whole response where it is not a stream."""
        async for index, item in self._sessions.events():
            if not isinstance(item, TokenAnswer):
                self._progress = describe(item)
                self._completion.note_progress(index, item)
                if self._progress_document is not None:
                    await self._chunk(send, self._progress_document(index, item))
                continue
            chunks = self._completion.chunks(index, item)
            if self._completion.ended(index):
                self._sessions.stop(index, self._completion.complete(index))
            for chunk in chunks:
                await self._chunk(send, chunk)
        if not self._stream:
            return JSONResponse(self._completion.whole())
        if usage := self._completion.closing():
            await self._chunk(send, usage)
        await self._frame(send, "data: [DONE]")
        await send({"type": "http.response.body", "body": b""})
        return None

    async def _fail(self, error: ApiError, send: Send) -> Response | None:
        """Say what went wrong. Returns: the response, where none has begun."""
        if not self._started:
            return error.response()
        # The status has been sent: what went wrong is an event of its own, and the stream ends without "[DONE]".
        await self._chunk(send, error.body())
        await send({"type": "http.response.body", "body": b""})
        return None

    async def _chunk(self, send: Send, document: dict[str, Any]) -> None:
        if self._stream:
            await self._frame(send, f"data: {json.dumps(document, ensure_ascii=False)}")

    async def _frame(self, send: Send, text: str) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": f"{text}\n\n".encode(), "more_body": True})
