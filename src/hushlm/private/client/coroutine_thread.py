"""A thread that runs one coroutine or iterates over one generator, for callers that have no event loop, or one of their own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any, TypeVar

__all__ = ["CoroutineThread", "iterate"]

Item = TypeVar("Item")


def iterate(make: Callable[[], AsyncGenerator[Item, None]]) -> Generator[Item, None, None]:
    """What an asynchronous generator yields, one by one. Closing the iterator closes the generator, and waits until it has cleaned up.

    Args:
        make: called in the thread that iterates, to make the generator.
    """
    inbox: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()

    async def pour() -> None:
        try:
            async with contextlib.aclosing(make()) as items:
                async for item in items:
                    inbox.put(item)
            inbox.put(_End(None))
        except Exception as error:
            inbox.put(_End(error))

    thread = CoroutineThread(pour)
    try:
        while not isinstance(item := inbox.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        thread.stop()


class _End:
    """Nothing more comes, because of an error or because there is no more."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


class CoroutineThread:
    """Runs a coroutine in an event loop of a thread of its own, so that callers may have a loop of their own, or none.

    Args:
        make: called in that thread to make the coroutine.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._make = make
        self._task: asyncio.Task[None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hushlm-session", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Cancel the coroutine and wait until it has cleaned up."""
        self._started.wait()
        assert self._task is not None
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, contextlib.suppress(asyncio.CancelledError):
            runner.run(self._main())

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        self._started.set()
        await self._make()
