"""Where runs are made: in processes of this machine, or by Ray on many machines.

A run takes one job and gives one record. Nothing is shared but the folder of runs, so anything that can call a function will do.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import yaml

from hushlm.experiments.runs import Job, RunRecord, run
from hushlm.experiments.study import Study
from hushlm.files import write_atomic
from hushlm.processors import processors
from hushlm.report.run_progress import CountProgress

__all__ = ["Launcher", "Workers", "commands", "launch"]

Launcher = Literal["local", "ray"]


@dataclass(frozen=True)
class Workers:
    """Who makes the runs.

    Attributes:
        launcher: see `launch`.
        parallel: how many runs are made at once.
        address: where a Ray cluster is; None starts Ray on this machine.
    """

    launcher: Launcher
    parallel: int
    address: str | None = None

    @staticmethod
    def of(launcher: Launcher, parallel: int | None, address: str | None, threads: int) -> Workers:
        """As asked for on the command line.

        Args:
            parallel: how many runs are made at once; None for as many as this machine's cores allow.
            threads: how many threads a run has; 0 leaves it to a library, so that one run takes the machine.
        """
        return Workers(launcher, parallel or (max(1, processors() // threads) if threads else 1), address)

    def launch(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, RunRecord]]:
        """`launch` here."""
        return launch(jobs, self.launcher, self.parallel, self.address)

    def make(self, study: Study, jobs: Sequence[Job]) -> None:
        """Make a study's pending jobs, and say on standard error how many there are, and what came out of each that ends."""
        progress = CountProgress("runs", len(jobs), study.remaining())
        progress.begin(f"{self.parallel} at once" + (f"; {study.scale.takes}" if study.scale.takes else ""))
        for job, record in self.launch(jobs):
            ending = f"stopped before update {record.stopped_at_step}"
            if record.stopped_at_step is None:
                ending = f"validation perplexity {record.validation_perplexity or math.inf:.3f}"
            progress.advance(f"{job.config.architecture}, rate {record.learning_rate:g}, seed {record.seed}: {ending}")


def launch(jobs: Iterable[Job], launcher: Launcher, parallel: int, address: str | None = None) -> Iterator[tuple[Job, RunRecord]]:
    """Make the runs, `parallel` at once, and yield each as it ends.

    Args:
        jobs: what is to be made. The next one is asked for only when a place is free and the last record was yielded, so that it may
            depend on records.
        launcher: "local" for processes of this machine, or "ray", which needs the extra `cluster` and the folder of runs on a file system
            that every machine sees.
        parallel: how many runs are made at once; on a Ray cluster its cores decide.
        address: where a Ray cluster is; None starts Ray on this machine.

    Raises:
        ValueError: in one sentence, from the first run that could not be made; the others are given up.
        ModuleNotFoundError: if Ray is wanted and not installed.
    """
    yield from _ray(jobs, parallel, address) if launcher == "ray" else _local(jobs, parallel)


def commands(jobs: Sequence[Job]) -> Iterator[str]:
    """A command line that trains each job on GPUs, in whatever way a cluster runs commands. Settings are written into the run's folder.

    The command that asked for these finds the finished checkpoints afterwards, evaluates them and goes on.
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
    # Spawned, because a forked process would inherit locks that this one's threads hold.
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
            # Runs that have not begun are given up. Those at work are ended, for they may have hours to go.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise


def _prepare() -> None:
    """Prepare a process for runs.

    A run has one thread: libraries read the variable when they are imported, which is after this and before the run's own setting. And no
    run outlives a command that was killed. (A command that is interrupted ends its runs itself, and they save what they have.)
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
