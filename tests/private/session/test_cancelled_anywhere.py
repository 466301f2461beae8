"""Whatever step of the event loop a session is cancelled at, nothing of it stays open."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("spu")

from tests.private.service import session_folders

from hushlm.private.client.client import Client, ClientSettings
from hushlm.private.client.retries import Retries
from hushlm.private.session.engine_links import Stream, engine_links

STEPS = 25
"""More steps of the event loop than a session takes before it waits for its worker."""


def cancel_at(step: int, again: int, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel a task at this step of the event loop, and `again` more times while it ends.

    What stays open says so when it is collected, and every such warning is an error here.
    """

    async def go() -> None:
        task = asyncio.create_task(work())
        for _ in range(step):
            await asyncio.sleep(0)
        for _ in range(1 + again):
            task.cancel()
            await asyncio.sleep(0)
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(go())
    gc.collect()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("again", [0, 3])
@pytest.mark.parametrize("step", range(12))
def test_links_cancelled_at_any_step_leave_no_listener(step: int, again: int) -> None:
    """One that was cancelled between being bound and being awaited stayed open."""

    async def links() -> None:
        async with engine_links("client", 1.0):
            await asyncio.Event().wait()

    cancel_at(step, again, links)


@pytest.mark.timeout(60)
def test_links_that_end_as_they_are_joined_close_their_connection() -> None:
    """The task that carries a link closes it, unless it is cancelled before its first step."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def links() -> None:
            far = await asyncio.open_connection(*server.getsockname())
            async with engine_links("client", 1.0) as made:
                made.join("client", Stream(*far))

        asyncio.run(links())
        gc.collect()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("again", [0, 3])
def test_a_question_cancelled_at_any_step_leaves_nothing(export_folder: Path, key_folder: Path, scratch: Path, again: int) -> None:
    settings = ClientSettings(retries=Retries(1, first_seconds=0.01))
    client = Client(export_folder / "client", "127.0.0.1:1", key_folder, settings=settings)
    for step in range(STEPS):
        cancel_at(step, again, lambda: client.ask_async("a", 1))
        assert session_folders(scratch) == [], f"cancelled at step {step}"
