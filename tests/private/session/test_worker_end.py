"""A worker's end outlasts every cancellation: no process and no folder is left behind."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest

pytest.importorskip("spu")

from hushlm.private.session.process import WorkerProcess, start_worker


@pytest.mark.timeout(60)
@pytest.mark.parametrize("cancellations", [1, 2, 5])
def test_a_worker_is_gone_however_often_its_session_is_cancelled(cancellations: int) -> None:
    """Cancelled again while its worker was being killed, a session used to end before the process did."""

    async def go() -> tuple[WorkerProcess, Path]:
        started: asyncio.Future[tuple[WorkerProcess, Path]] = asyncio.get_running_loop().create_future()

        async def session() -> None:
            async with start_worker() as made:
                started.set_result(made)
                await asyncio.Event().wait()

        task = asyncio.create_task(session())
        worker, scratch = await started
        for _ in range(cancellations):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        return worker, scratch

    worker, scratch = asyncio.run(go())
    gc.collect()  # a process that was not waited for warns, which is an error here
    assert worker.returncode == -9
    assert not scratch.exists()
