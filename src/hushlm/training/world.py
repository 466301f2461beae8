"""The processes of one run: who they are, what they tell each other, and how many threads each uses.

Sums over ranks are gathered and added in the order of the ranks, so they are the same bits on every rank and in every repetition.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from hushlm.config import RunConfig, TrainingConfig

__all__ = ["ONE_THREAD_BELOW_WIDTH", "World", "linear_algebra_threads", "matrix_precision", "open_world"]

T = TypeVar("T")

TIMEOUT = timedelta(hours=12)
"""The first rank may tokenise a corpus while the others wait. A rank that dies is torchrun's to notice."""

ONE_THREAD_BELOW_WIDTH = 512
"""Below this width further threads wait for each other longer than they compute: docs/training.md has the times."""


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: counted from 0.
        size: how many there are.
        device: what this rank computes on.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    def share(self, count: int) -> slice:
        """This rank's part of `count` sequences: consecutive ones, the parts as equal as can be."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather(self, values: Tensor) -> Tensor:
        """Every rank's tensor, (size, *shape), on every rank."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over ranks, in their order."""
        return values if self.size == 1 else self.gather(values).sum(dim=0)

    def agree(self, flag: bool) -> bool:
        """Whether any rank says yes."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor([float(flag)], device=self.device)).item())

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.agree(False)

    def first(self, action: Callable[[], T]) -> T | None:
        """Do something at rank 0 alone while the others wait. Returns: its result there, None elsewhere.

        Raises:
            ValueError: on every rank, with the sentence of the one at rank 0.
        """
        result, sentence = None, ""
        if self.rank == 0:
            try:
                result = action()
            except ValueError as error:
                if self.size == 1:
                    raise
                sentence = str(error)
        if self.size > 1:
            told = [sentence]
            dist.broadcast_object_list(told, src=0)
            if told[0]:
                raise ValueError(told[0])
        return result


@contextmanager
def open_world(settings: TrainingConfig) -> Iterator[World]:
    """The processes that torchrun started, or this one alone; inside another `open_world`, the same processes.

    Raises:
        ValueError: if the number of processes does not go with `settings.parallel`, a rank would have no sequence, or there is no
            such device.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if settings.parallel == "none" and ranks > 1:
        raise ValueError(f"{ranks} processes were started, and each would train alone: add --training.parallel ddp (or fsdp).")
    if settings.parallel != "none" and "RANK" not in os.environ:
        raise ValueError(
            f"training.parallel = {settings.parallel} needs processes: start with torchrun --nproc-per-node 2 -m hushlm train and the same "
            "options, or leave it at none."
        )
    if settings.batch < ranks:
        raise ValueError(f"A batch of {settings.batch} cannot be shared by {ranks} processes: raise training.batch, or start fewer.")
    device = torch.device("cpu")
    if settings.device == "cuda":
        if not torch.cuda.is_available():
            raise ValueError("training.device = cuda needs a GPU that torch can use, and there is none: use training.device = cpu.")
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if settings.parallel == "none":
        yield World(device=device)
        return
    opened = not dist.is_initialized()
    if opened:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        if opened:
            dist.destroy_process_group()


@contextmanager
def linear_algebra_threads(config: RunConfig) -> Iterator[None]:
    """Use `training.threads` threads; for 0, one for models below `ONE_THREAD_BELOW_WIDTH` and the library's choice above."""
    wanted = config.training.threads or (1 if config.shape.width < ONE_THREAD_BELOW_WIDTH else 0)
    before = torch.get_num_threads()
    try:
        if wanted:
            torch.set_num_threads(wanted)
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def matrix_precision(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Let a GPU's matrix products use TF32 where `training.precision` is "tf32"."""
    if config.training.precision != "tf32" or device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
