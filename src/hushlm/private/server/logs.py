"""The server's log: one JSON document a line, with times, sizes and outcomes only."""

from __future__ import annotations

import logging
from typing import TextIO

import structlog
from structlog.typing import Processor

__all__ = ["log", "start_log"]

_STANDARD = logging.getLogger("hushlm.server")

log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    _STANDARD,
    processors=[structlog.stdlib.filter_by_level, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)
"""`log.info("what happened", session=..., ...)`. Without `start_log` only warnings are shown, as Python's own logging does."""


def start_log(stream: TextIO, verbose: bool = False) -> None:
    """Write JSON lines from now on, those of the libraries below too where they warn.

    Args:
        stream: text, for example standard error.
        verbose: with the end of a failed worker's own log.
    """
    described: list[Processor] = [structlog.stdlib.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                *described,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ]
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _STANDARD.setLevel(logging.DEBUG if verbose else logging.INFO)
