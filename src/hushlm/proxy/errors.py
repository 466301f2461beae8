"""Errors in the shape that OpenAI's clients read."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

__all__ = ["ApiError"]


class ApiError(Exception):
    """A request ends with a status and one sentence.

    Args:
        status: HTTP status code.
        sentence: what was wrong and what to do.
        code: for programs.
        parameter: of the request, that is to blame.
        retry: whether a client may send the request again by itself; None leaves that to the status code.
        retry_seconds: after which.
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
        headers = {}
        if self._retry is not None:
            headers["x-should-retry"] = str(self._retry).lower()
        if self._retry_seconds is not None:
            headers["retry-after"] = f"{self._retry_seconds:.0f}"
        return JSONResponse(self.body(), self.status, headers)
