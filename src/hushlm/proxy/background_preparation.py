"""Preparing answers while nobody asks, so that the next questions find some."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from hushlm.private.client.client import Client
from hushlm.private.client.preparing import PreparationReport
from hushlm.private.session.messages import SessionError
from hushlm.proxy.errors import internal_error
from hushlm.proxy.request_sessions import SessionPool

__all__ = ["BackgroundPreparation"]

QUIET_SECONDS = 2.0
"""How long nobody must have asked before preparing begins."""

PAUSE_SECONDS = 60.0
"""Time to the next attempt after a failure, and to the next look at how many are left when nobody has asked."""

log = logging.getLogger("hushlm.proxy")


class BackgroundPreparation:
    """Keeps so many prepared answers of one pair of lengths. A question that comes lets it end with the batch that is being made.

    Args:
        client: prepares with its server.
        pool: knows when somebody asks.
        keep: how many there shall be.
        prompt_tokens: length of the prompts.
        tokens_each: length of the answers.
        draft: how many tokens each pass of an answer guesses.
    """

    def __init__(self, client: Client, pool: SessionPool, keep: int, prompt_tokens: int, tokens_each: int, draft: int = 0) -> None:
        self._client, self._pool = client, pool
        self._keep, self._prompt_tokens, self._tokens_each, self._draft = keep, prompt_tokens, tokens_each, draft

    async def run(self) -> None:
        """Prepare whenever some are missing and nobody asks, until this is cancelled."""
        while True:
            await self._pool.idle.wait()
            await asyncio.sleep(QUIET_SECONDS)
            if self._pool.idle.is_set():
                await self._prepare()
                # Until a question may have used one up, or another program has.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PAUSE_SECONDS):
                        await self._pool.busy.wait()

    async def _prepare(self) -> None:
        report = PreparationReport()
        try:
            lengths = (self._tokens_each, self._prompt_tokens)
            events = self._client.preparation(self._keep, *lengths, report, self._pool.busy, self._draft)
            async with contextlib.aclosing(events):
                async for _ in events:
                    pass
        except (SessionError, ValueError, OSError) as error:
            log.warning("preparing answers: %s Trying again in %.0f s.", error, PAUSE_SECONDS)
        except Exception as error:
            internal_error("preparing answers", error)
        if report.made:
            log.info(
                "preparing answers: made=%d held=%d bytes=%d disk_bytes=%d seconds=%.1f",
                *(report.made, report.held, report.traffic.total_bytes, report.disk_bytes, report.seconds),
            )
