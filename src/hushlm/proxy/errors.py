"""Errors in the shape that OpenAI's clients read, and what the log may say of those that nobody foresaw."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from starlette.responses import JSONResponse

__all__ = ["ApiError", "internal_error"]

log = logging.getLogger("hushlm.proxy")


class ApiError(Exception):
    """A request ends with a status and one sentence.

    Args:
        status: HTTP status code.
        sentence: what was wrong and what to do.
        code: one word for programs.
        parameter: the parameter of the request that is to blame.
        retry: whether a client may send the request again by itself; None leaves that to the status code.
        retry_seconds: how long a client should wait before that; None leaves it open.
    """

    def __init__(
        self,
        status: int,
        sentence: str,
        code: str | None = None,
        parameter: str | None = None,
        retry: bool | None = None,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.code, self.parameter = status, sentence, code, parameter
        self._retry, self._retry_seconds = retry, retry_seconds

    def body(self) -> dict[str, Any]:
        """{"error": {...}}, as a response or within a stream."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        return {"error": {"message": self.sentence, "type": kind, "param": self.parameter, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole HTTP response."""
        headers = {}
        if self._retry is not None:
            headers["x-should-retry"] = str(self._retry).lower()
        if self._retry_seconds is not None:
            headers["retry-after"] = f"{self._retry_seconds:.0f}"
        return JSONResponse(self.body(), self.status, headers)


def internal_error(name: str, error: BaseException) -> ApiError:
    """The error that a caller gets in place of an exception which nobody foresaw; its kind and its place go to the log.

    The exception's message does not: a library may have put a prompt or an answer into it.

    Args:
        name: of the request, in the log.
        error: the exception.
    """
    frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
    place = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(frames))
    log.error("%s: internal error, %s at %s", name, type(error).__name__, place)
    return ApiError(500, "The proxy failed on an internal error: see its log.", "internal_error", retry=False)
