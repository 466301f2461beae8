"""A model as the ranks of a run train it together: replicas (DDP) or shards (FSDP2), and the sums of gradients.

Every rank's backward pass gives its own part of the gradient, and parts are to be ADDED over ranks, not averaged: what a part is worth
is decided where the loss is written, so that ranks and micro-batches of unequal size are weighed right. DDP averages, so under DDP the
loss is multiplied by `Team.scale` first. (A hook that adds instead, written in Python, can deadlock when the group is taken down.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

from hushlm.config import TrainingConfig
from hushlm.entropy import EntropyRegulariser
from hushlm.model import LanguageModel
from hushlm.training.tied_embedding import look_up
from hushlm.training.world import World

__all__ = ["Team", "clip", "shard_like", "total_norm", "whole"]


class Team:
    """A model, its regulariser and their copies or shards on the other ranks.

    Args:
        model: the model, the same on every rank; becomes this rank's shards under "fsdp".
        regulariser: the entropy regulariser, the same on every rank, or None; it stays whole.
        settings: parallel, activation_checkpointing, compile.
        world: the ranks.
        teacher: a model without gradients that every rank holds whole, or None.
    """

    def __init__(
        self,
        model: LanguageModel,
        regulariser: EntropyRegulariser | None,
        settings: TrainingConfig,
        world: World,
        teacher: LanguageModel | None = None,
    ) -> None:
        self.model, self.regulariser, self.world = model.to(world.device), regulariser, world
        self.teacher = teacher.to(world.device) if teacher is not None else None
        self._by_hand: list[nn.Parameter] = []
        if regulariser is not None:
            self._by_hand += regulariser.to(world.device).parameters()
        self._recomputes = settings.activation_checkpointing
        if self._recomputes:
            for block in model.blocks:
                block.forward = partial(_recomputed, block.forward)
        if model.head is None and world.device.type == "cpu" and not settings.compile and settings.parallel != "fsdp":
            model.embedding.forward = partial(look_up, model.embedding)  # type: ignore[method-assign]
        runner: nn.Module = model
        self._replicated: DistributedDataParallel | None = None
        self.scale = 1.0
        self._sharded = settings.parallel == "fsdp"
        if settings.parallel == "ddp":
            runner = self._replicated = DistributedDataParallel(model, forward_sync_buffers=False)
            self.scale = float(world.size)
        elif self._sharded:
            self._shard()
        self.forward: Any = torch.compile(runner) if settings.compile else runner

    def _shard(self) -> None:
        # FSDP2 takes no scalars: alpha and beta stay whole, and their gradients are added by hand.
        scalars = {parameter for parameter in self.model.parameters() if parameter.ndim == 0}
        self._by_hand += [parameter for parameter in self.model.parameters() if parameter.ndim == 0]
        mesh = init_device_mesh(self.world.device.type, (self.world.size,))
        for module in (*self.model.blocks, self.model):
            fully_shard(module, mesh=mesh, ignored_params=scalars)
        for module in self._shards():
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # with a factor of 1 a plain sum, which every backend has

    def _shards(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]

    def begin_step(self, passes: int) -> None:
        """Before the forward passes of an update, `passes` of them: a spectral norm makes its power iteration once, not at every pass."""
        if passes == 1 and not self._recomputes:
            return
        normed = [m for m in self.model.modules() if any(isinstance(part, _SpectralNorm) for part in m.children())]
        if not normed:
            return
        for module in self._shards():
            module.unshard()
        for parametrization in normed:
            parametrization.train()
            with torch.no_grad():
                parametrization()
            parametrization.eval()
        for module in self._shards():
            module.reshard()

    @contextmanager
    def adding_up(self, last: bool) -> Iterator[None]:
        """Around the passes of a micro-batch: gradients travel with the last one only."""
        if self._replicated is not None and not last:
            with self._replicated.no_sync():
                yield
            return
        if self._sharded:
            assert isinstance(self.model, FSDPModule)
            self.model.set_requires_gradient_sync(last)
        yield

    def add_up_the_rest(self) -> None:
        """Sums over ranks of the gradients that neither DDP nor FSDP looks after."""
        if self.world.size > 1:
            for parameter in self._by_hand:
                if parameter.grad is not None:
                    parameter.grad = self.world.sum(parameter.grad) / self.scale

    def release(self) -> LanguageModel:
        """The plain model again, in evaluation mode, not for "fsdp"."""
        for module in (self.model.embedding, *self.model.blocks):
            module.__dict__.pop("forward", None)
        return self.model.eval()


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together; every rank has to ask. Others as they are. On the CPU, detached."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu()


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This rank's part of a whole tensor, laid out as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    # Every rank has the whole tensor: nothing is sent, so ranks need not come here in the same order.
    return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """The norm over whole and sharded gradients; every rank has to ask."""
    kinds: list[list[Tensor]] = [[g for g in gradients if isinstance(g, DTensor)], [g for g in gradients if not isinstance(g, DTensor)]]
    norms = [nn.utils.get_total_norm(kind) for kind in kinds if kind]
    if len(norms) == 1 and not isinstance(norms[0], DTensor):
        return norms[0]
    return torch.linalg.vector_norm(torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]))


def clip(gradients: Sequence[Tensor], limit: float, norm: Tensor) -> None:
    """Scale gradients down to a norm of `limit`, in place, with the rounding of `nn.utils.clip_grads_with_norm_`."""
    coefficient = torch.clamp(limit / (norm + 1e-6), max=1.0)
    for kind in ([g for g in gradients if isinstance(g, DTensor)], [g for g in gradients if not isinstance(g, DTensor)]):
        if kind:
            torch._foreach_mul_([g.to_local() if isinstance(g, DTensor) else g for g in kind], coefficient)


def _recomputed(forward: Any, *inputs: Any) -> Any:
    """A block whose inside is computed again in the backward pass instead of being kept."""
    if not torch.is_grad_enabled():
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False)
