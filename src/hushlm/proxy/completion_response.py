"""One completion as an HTTP response, whole or as a stream of events; who hangs up ends the private sessions behind it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from hushlm.private.program.token_answer import TokenAnswer
from hushlm.proxy.completion_builder import CompletionBuilder
from hushlm.proxy.errors import ApiError
from hushlm.proxy.request_sessions import RequestSessions
from hushlm.report.question import describe

__all__ = ["CompletionResponse"]

BEAT_SECONDS = 5.0
"""Between two comments in a stream: tokens take their time, and connections that say nothing are closed by many."""


class _CallerGoneError(Exception):
    """The caller closed the connection."""


class CompletionResponse(Response):
    """Runs the sessions of a request while it answers.

    Args:
        answering: not entered yet.
        completion: collects its events.
        stream: answer with server-sent events.
    """

    def __init__(self, answering: RequestSessions, completion: CompletionBuilder, stream: bool) -> None:
        self.background = None
        self._answering, self._completion, self._stream = answering, completion, stream
        self._started = False
        self._progress = "waiting for a place"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self._answering, asyncio.TaskGroup() as group:
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
            async for index, item in self._answering.events():
                if not isinstance(item, TokenAnswer):
                    self._progress = describe(item)
                    continue
                chunk = self._completion.note(index, item)
                if self._completion.ended(index):
                    self._answering.stop(index, self._completion.complete(index))
                await self._chunk(send, chunk)
        except ApiError as error:
            if not self._started:
                await error.response()(scope, receive, send)
                return
            # The status has been sent: what went wrong is an event of its own, and the stream has no end.
            await self._chunk(send, error.body())
        else:
            if not self._stream:
                await JSONResponse(self._completion.whole())(scope, receive, send)
                return
            if usage := self._completion.closing():
                await self._chunk(send, usage)
            await self._frame(send, "data: [DONE]")
        await send({"type": "http.response.body", "body": b""})

    async def _chunk(self, send: Send, document: dict[str, Any]) -> None:
        if self._stream:
            await self._frame(send, f"data: {json.dumps(document, ensure_ascii=False)}")

    async def _frame(self, send: Send, text: str) -> None:
        if not self._started:
            self._started = True
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": f"{text}\n\n".encode(), "more_body": True})
