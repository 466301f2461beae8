"""Loss and gradient of one batch, exactly the same however it is split over ranks and micro-batches.

Cross-entropy and the divergence from a teacher are means over the batch's tokens and the "listing" penalty a plain sum over its rows: they
add up over parts. The
"algorithm" penalty does not: it is P(E), with E[l,h] a head's entropy averaged over the WHOLE batch inside P. Its gradient is

    dP/dw = sum_lh c[l,h] dE[l,h]/dw,    c = dP/dE at the whole batch's E,

and dE/dw adds up over parts. So E is found first and every part back-propagates sum_lh c[l,h] (its share of E[l,h]): exact, and one
exchange of L x H numbers. Ranks with one micro-batch each find E from the pass they make anyway; further micro-batches cost one more
forward pass without gradient, on penalised updates only.

Legend: B batch, T tokens, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hushlm.config import TrainingConfig
from hushlm.model import ModelOutput
from hushlm.training.cross_entropy import distilling_cross_entropy, overwriting_cross_entropy
from hushlm.training.team import Team

__all__ = ["BatchLoss", "backpropagate", "head_entropies"]


@dataclass(frozen=True)
class BatchLoss:
    """What a batch gave, the same on every rank.

    Attributes:
        loss: cross-entropy, nats a token.
        teacher_loss: KL(teacher || student), nats a token; None without a teacher.
        penalty: the regulariser's penalty, without its weight; None if it was not computed.
        total: what is minimised: loss, or its mixture with teacher_loss, + weight x penalty + score_penalty x the scores' excess.
        entropy_nats_LH: batch means; None if nobody asked.
        nonfinite_entropies_L: rows of each layer whose entropy is not finite; None if nobody asked.
    """

    loss: float
    teacher_loss: float | None
    penalty: float | None
    total: float
    entropy_nats_LH: Tensor | None
    nonfinite_entropies_L: list[int] | None


def backpropagate(team: Team, window_BT: Tensor, batch: int, weight: float, settings: TrainingConfig, with_entropy: bool) -> BatchLoss:
    """Add a batch's gradient to the parameters' `grad`: of loss + weight x penalty, summed over ranks.

    Args:
        team: the model on its ranks.
        window_BT: this rank's sequences, (B', T+1) token ids.
        batch: B, sequences on all ranks together.
        weight: the penalty's factor in the loss; 0 leaves it out of the gradient.
        settings: micro_batch, precision.
        with_entropy: also find the batch's head entropies.
    """
    micro = settings.micro_batch or len(window_BT)
    parts = window_BT.to(team.world.device).split(micro)
    if team.world.size == 1 and len(parts) == 1:
        return _in_one_pass(team, parts[0], weight, settings, with_entropy)
    return _in_parts(team, parts, batch, weight, settings, with_entropy)


def _in_one_pass(team: Team, window_BT: Tensor, weight: float, settings: TrainingConfig, with_entropy: bool) -> BatchLoss:
    team.begin_step(1)
    with team.adding_up(last=True):
        output = _forward(team.forward, window_BT, settings, with_entropy or weight > 0)
        loss, cross_entropy, divergence = _token_loss(team, output, window_BT, window_BT[:, 1:].numel(), settings)
        penalty = None
        if team.regulariser is not None and output.entropy_nats_LBHT is not None:
            penalty = team.regulariser(output.entropy_nats_LBHT)
        total = loss + weight * penalty if penalty is not None and weight > 0 else loss
        total = total + _excess(output, settings)
        total.backward()
    entropy_nats_LBHT = output.entropy_nats_LBHT
    told = [cross_entropy, total.detach()] + ([] if divergence is None else [divergence])
    loss_value, total_value, *teacher_loss = torch.stack(told).tolist()
    return BatchLoss(
        loss_value,
        teacher_loss[0] if teacher_loss else None,
        penalty.item() if penalty is not None else None,
        total_value,
        entropy_nats_LBHT.detach().mean(dim=(1, 3)) if entropy_nats_LBHT is not None else None,
        _nonfinite(entropy_nats_LBHT).int().tolist() if with_entropy and entropy_nats_LBHT is not None else None,
    )


def _in_parts(team: Team, parts: tuple[Tensor, ...], batch: int, weight: float, settings: TrainingConfig, with_entropy: bool) -> BatchLoss:
    world, regulariser = team.world, team.regulariser
    context = parts[0].shape[1] - 1
    rows = batch * context
    of_means = regulariser is not None and regulariser.reduction == "algorithm"
    looks_first = of_means and weight > 0 and len(parts) > 1
    team.begin_step(len(parts) + looks_first)
    measured = _measure(team, parts, settings) if looks_first else None
    slope_LH = None
    penalty: Tensor | None = None
    if measured is not None:
        penalty, slope_LH = _penalty_of_means(team, measured[0] / rows, weight)

    loss_sum, penalty_sum, divergence_sum, excess_sum = (torch.zeros((), dtype=torch.float64) for _ in range(4))
    entropy_sum: list[tuple[Tensor, Tensor]] = []
    for index, window_BT in enumerate(parts):
        with team.adding_up(last=index == len(parts) - 1):
            output = _forward(team.forward, window_BT, settings, with_entropy or weight > 0)
            loss, cross_entropy, divergence = _token_loss(team, output, window_BT, rows, settings)
            loss_sum += cross_entropy.double().cpu()
            if divergence is not None:
                divergence_sum += divergence.double().cpu()
            total = loss
            if output.entropy_nats_LBHT is not None:
                entropy_LBHT = output.entropy_nats_LBHT
                counted = _nonfinite(entropy_LBHT) if with_entropy else torch.zeros(len(entropy_LBHT), dtype=torch.float64)
                entropy_sum.append((entropy_LBHT.detach().double().sum(dim=(1, 3)).cpu(), counted))
                if of_means and weight > 0:
                    if slope_LH is None:  # the only part of this rank: the ranks' entropies are known now
                        penalty, slope_LH = _penalty_of_means(team, world.sum(entropy_sum[0][0].to(world.device)) / rows, weight)
                    total = loss + (slope_LH * entropy_LBHT.sum(dim=(1, 3))).sum() / rows
                elif regulariser is not None and not of_means:
                    part_penalty = regulariser(entropy_LBHT)
                    penalty_sum += part_penalty.detach().double().cpu()
                    total = loss + weight * part_penalty if weight > 0 else loss
            excess = _excess(output, settings) * (window_BT[:, 1:].numel() / rows)
            excess_sum += excess.detach().double().cpu() if isinstance(excess, Tensor) else excess
            ((total + excess) * team.scale).backward()
    team.add_up_the_rest()

    told = world.sum(torch.stack([loss_sum, penalty_sum, divergence_sum, excess_sum]).to(world.device)).tolist()
    entropy_nats_LH = nonfinite = None
    if entropy_sum:
        entropy_nats_LH = world.sum(torch.stack([s for s, _ in entropy_sum]).sum(dim=0).to(world.device)).cpu() / rows
        nonfinite = world.sum(torch.stack([n for _, n in entropy_sum]).sum(dim=0).to(world.device)).int().tolist()
        if regulariser is not None and of_means and penalty is None:
            with torch.no_grad():
                penalty = regulariser.penalty_of_means(entropy_nats_LH.float().to(world.device))
    value = penalty.item() if penalty is not None else told[1] if regulariser is not None and entropy_sum else None
    teacher_loss = told[2] if team.teacher is not None else None
    whole_loss = told[0]
    if teacher_loss is not None:
        w = settings.teacher_weight
        whole_loss = (1 - w) * told[0] + w * settings.teacher_temperature**2 * teacher_loss
    if value is not None and weight > 0:
        whole_loss += weight * value
    whole_loss += told[3]
    return BatchLoss(told[0], teacher_loss, value, whole_loss, entropy_nats_LH, nonfinite if with_entropy else None)


def head_entropies(team: Team, window_BT: Tensor, batch: int, settings: TrainingConfig) -> tuple[Tensor, list[int]]:
    """A batch's mean head entropies (L, H) and each layer's rows without a finite one, in a pass of its own without gradient."""
    parts = window_BT.to(team.world.device).split(settings.micro_batch or len(window_BT))
    team.begin_step(2)
    entropy_sum_LH, nonfinite_L = _measure(team, parts, settings)
    rows = batch * (window_BT.shape[1] - 1)
    return (entropy_sum_LH / rows).cpu(), nonfinite_L.int().tolist()


def _measure(team: Team, parts: tuple[Tensor, ...], settings: TrainingConfig) -> tuple[Tensor, Tensor]:
    """Sums over the batch on all ranks: head entropies (L, H), and rows without a finite one (L,)."""
    sums = []
    with torch.no_grad():
        for window_BT in parts:
            # Past DDP, which would prepare for a backward pass; FSDP's hooks are the model's own.
            entropy_LBHT = _forward(team.model, window_BT, settings, True).entropy_nats_LBHT
            assert entropy_LBHT is not None
            sums.append(torch.cat((entropy_LBHT.double().sum(dim=(1, 3)).cpu(), _nonfinite(entropy_LBHT)[:, None]), dim=1))
    both = team.world.sum(torch.stack(sums).sum(dim=0).to(team.world.device))
    return both[:, :-1], both[:, -1]


def _penalty_of_means(team: Team, entropy_nats_LH: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """The penalty and weight x dP/dE; the thresholds' gradient is left in their `grad`, at rank 0 for all."""
    regulariser = team.regulariser
    assert regulariser is not None
    means_LH = entropy_nats_LH.float().requires_grad_()
    thresholds = list(regulariser.parameters())
    penalty = regulariser.penalty_of_means(means_LH)
    slope_LH, *of_thresholds = torch.autograd.grad(weight * penalty, [means_LH, *thresholds])
    for parameter, gradient in zip(thresholds, of_thresholds, strict=True):
        parameter.grad = gradient * team.scale if team.world.rank == 0 else torch.zeros_like(gradient)
    return penalty.detach(), slope_LH


def _token_loss(
    team: Team, output: ModelOutput, window_BT: Tensor, rows: int, settings: TrainingConfig
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What a part's tokens give: the loss to be back-propagated, the cross-entropy in it, and the divergence from the teacher, if any.

    Sums over the part's tokens divided by `rows`; the logits are not to be read afterwards.
    """
    logits_NV, targets_N = output.logits_BTV.flatten(0, 1).float(), window_BT[:, 1:].flatten()
    if team.teacher is None:
        loss = overwriting_cross_entropy(logits_NV, targets_N, rows)
        return loss, loss.detach(), None
    with torch.no_grad():
        teacher_NV = _forward(team.teacher, window_BT, settings, False).logits_BTV.flatten(0, 1).float()
    weight, temperature = settings.teacher_weight, settings.teacher_temperature
    return distilling_cross_entropy(logits_NV, teacher_NV, targets_N, rows, weight=weight, temperature=temperature)


def _excess(output: ModelOutput, settings: TrainingConfig) -> Tensor | float:
    """What the scores of a power kernel add to the loss of the tokens of one forward pass."""
    if output.score_excess is None or settings.score_penalty == 0:
        return 0.0
    return settings.score_penalty * output.score_excess


def _forward(forward: object, window_BT: Tensor, settings: TrainingConfig, with_entropy: bool) -> ModelOutput:
    assert callable(forward)
    with torch.autocast(window_BT.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        return forward(window_BT[:, :-1], with_entropy=with_entropy)


def _nonfinite(entropy_LBHT: Tensor) -> Tensor:
    """Rows a layer, float64 on the CPU."""
    return (~entropy_LBHT.detach().isfinite()).flatten(1).sum(dim=1).double().cpu()
