"""Runs on engines that exist: processes of this machine, or Ray over many.

A run takes one job and gives one record; nothing is shared but the folder of runs, so any engine that calls a function will do.
"""

from __future__ import annotations

import multiprocessing
import os
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Literal

import yaml

from hushlm.files import write_atomic
from hushlm.reproduce.runs import Job, RunRecord, run

__all__ = ["Launcher", "commands", "default_parallel", "launch"]

Launcher = Literal["local", "ray"]


def default_parallel(threads: int) -> int:
    """Runs at once on this machine, each with `threads` threads (0: the library's choice, so one run)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // threads) if threads else 1


def launch(jobs: Iterable[Job], launcher: Launcher, parallel: int, address: str | None = None) -> Iterator[tuple[Job, RunRecord]]:
    """Make the runs, `parallel` at once, and yield each as it ends.

    Args:
        jobs: to be made; the next one is asked for when a place is free and the last record was yielded, so that what it is may depend
            on records.
        launcher: "local" processes, or "ray": needs the extra `cluster`, and the folder of runs on a file system that every machine sees.
        parallel: runs at once; on a Ray cluster, its cores decide.
        address: of a Ray cluster; None starts Ray on this machine.

    Raises:
        ValueError: one sentence, from the first run that could not be made; the others are given up.
        ModuleNotFoundError: if Ray is wanted and not installed.
    """
    yield from _ray(jobs, parallel, address) if launcher == "ray" else _local(jobs, parallel)


def commands(jobs: Sequence[Job]) -> Iterator[str]:
    """A command line for each job, to be run on GPUs in whatever way a cluster has; its settings are written into the run's folder.

    The same `hushlm reproduce` afterwards finds the finished checkpoints, evaluates them and goes on.
    """
    for job in jobs:
        job.record.parent.mkdir(parents=True, exist_ok=True)
        settings = job.record.with_name("run.yaml")
        write_atomic(settings, yaml.safe_dump(job.config.to_dict(), sort_keys=False))
        every = [] if job.checkpoint_every is None else ["--checkpoint-every", str(job.checkpoint_every)]
        gpus = ["--training.device", "cuda", "--training.parallel", "ddp"]
        train = ["torchrun", "--nproc-per-node", "gpu", "-m", "hushlm", "train", "--resume", "auto", "--config"]
        yield shlex.join([*train, str(settings), *every, *gpus])


def _local(jobs: Iterable[Job], parallel: int) -> Iterator[tuple[Job, RunRecord]]:
    # Spawned: a fork would take over this process's threads' locks.
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(parallel, mp_context=multiprocessing.get_context("spawn"), initializer=_prepare) as pool:
        coming = iter(jobs)
        futures: dict[Future[RunRecord], Job] = {}
        try:
            while True:
                futures |= {pool.submit(run, job): job for job in islice(coming, parallel - len(futures))}
                if not futures:
                    break
                future = next(iter(wait(futures, return_when=FIRST_COMPLETED).done))
                yield futures.pop(future), future.result()
        except BaseException:
            # Runs that have not begun are given up, and those at work ended: they may have hours to go.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _prepare() -> None:
    """One thread a run: libraries read the variable when they are imported, after this and before the run's own setting.

    And no run outlives a killed command; one that is interrupted ends its runs itself, and they save what they have.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _ray(jobs: Iterable[Job], parallel: int, address: str | None) -> Iterator[tuple[Job, RunRecord]]:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--launcher ray needs Ray: pip install 'hushlm[cluster]'.", name="ray") from error

    ray.init(
        address=address,
        num_cpus=None if address else parallel,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
    )
    try:
        remote = ray.remote(run)
        places = int(ray.cluster_resources().get("CPU", parallel)) if address else parallel
        coming = iter(jobs)
        waiting: dict[ray.ObjectRef[RunRecord], Job] = {}
        while True:
            for job in islice(coming, places - len(waiting)):
                waiting[remote.options(num_cpus=max(1, job.config.training.threads)).remote(job)] = job
            if not waiting:
                break
            [done], _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            try:
                record = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            yield job, record
    finally:
        ray.shutdown()
