"""`EntropyTrainer`: the Trainer of transformers with the entropy regulariser in its loss.

    from hushlm.config import EntropyConfig
    from hushlm.huggingface import EntropyTrainer

    trainer = EntropyTrainer(model=model, args=args, train_dataset=dataset, entropy=EntropyConfig(weight=0.1, weight_end_fraction=None))
    trainer.train()

Legend: L layers, H heads, T context, A micro-batches an update (gradient accumulation).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer

from hushlm.config import EntropyConfig
from hushlm.entropy import EntropyRegulariser
from hushlm.huggingface.patched_attention import REGULARISER, active_record, record_entropies, use_entropy_attention
from hushlm.training.optimiser import regulariser_weight

__all__ = ["EntropyTrainer"]

THRESHOLDS_FILE = "entropy_thresholds.safetensors"
SETTINGS_FILE = "entropy_config.json"
_PENALTY = "entropy_penalty"


class EntropyTrainer(Trainer):
    """Trains any causal language model of transformers with loss + lambda * penalty (arXiv 2501.03489, Algorithm 1).

    The model's attention is exchanged for one that knows its entropies. The thresholds theta (L, H) are parameters of the model while it
    is trained (`model.entropy_regulariser.threshold_LH`, without weight decay). They are saved as `entropy_thresholds.safetensors` beside
    each checkpoint, so that plain transformers reads the checkpoint itself. Evaluation reports the plain loss.

    Gradient accumulation and several processes: reduction "listing" sums over rows, so an update's penalty is the sum over all its rows,
    however they are split. Reduction "algorithm" averages a head's entropy over the batch first, so each micro-batch of each process
    gives a penalty of its own, and the update takes the mean of these. That equals the penalty of one large batch only if all micro-batches
    are alike and lie on the same side of the margin.

    Logged beside the loss: `entropy_penalty` and `entropy_nats` (the mean over heads and rows), both as means since the last log, and
    `entropy_weight`, lambda.

    An optimizer that is passed in by `optimizers` was built before the thresholds existed: they are added to it as a group of their own,
    with its default learning rate and without weight decay.

    Args:
        model: a causal language model.
        entropy: lambda and when it ends, gamma, the thresholds at the start, and the reduction. The initial temperature is not used.
        context: T, whose logarithm is the regulariser's maximum: give the length of your sequences. None takes the longest sequence that
            the model reads.
        arguments: all other arguments of `Trainer`.

    Raises:
        ValueError: if there is no model, its attention cannot be exchanged, its longest sequence is unknown and no `context` is given,
            or the thresholds cannot join the optimizer that was passed in.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: Any = None,
        *arguments: Any,
        entropy: EntropyConfig = EntropyConfig(),
        context: int | None = None,
        **named: Any,
    ) -> None:
        if model is None:
            raise ValueError("EntropyTrainer needs a model: the thresholds have its numbers of layers and heads. It takes no model_init.")
        use_entropy_attention(model)
        config = model.config.get_text_config()
        context = context or getattr(config, "max_position_embeddings", None)
        if context is None:
            raise ValueError(f"{type(model).__name__} does not say how long its sequences may be: give EntropyTrainer a context.")
        regulariser = EntropyRegulariser(
            config.num_hidden_layers,
            config.num_attention_heads,
            context,
            tolerance=entropy.tolerance,
            initial_threshold=entropy.initial_threshold,
            reduction=entropy.reduction,
        )
        if REGULARISER not in dict(model.named_children()):  # a model that a trainer before this one has had keeps its hook
            model.register_forward_hook(_add_penalty)
        model.add_module(REGULARISER, regulariser)
        name = f"{REGULARISER}.threshold_LH"
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), name}
        self.entropy = entropy
        self._seen: dict[str, Tensor | float] = {_PENALTY: 0.0, "entropy_nats": 0.0}
        self._seen_batches = 0
        super().__init__(model, args, *arguments, **named)
        if self.optimizer is not None:
            self._add_thresholds(self.optimizer)

    @property
    def regulariser(self) -> EntropyRegulariser:
        """The regulariser, with the thresholds learned so far."""
        regulariser = getattr(self.accelerator.unwrap_model(self.model), REGULARISER)
        assert isinstance(regulariser, EntropyRegulariser)
        return regulariser

    def entropy_weight(self) -> float:
        """lambda at the current update."""
        return regulariser_weight(self.state.global_step, max(1, self.state.max_steps), self.entropy)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training, plus lambda times the penalty.

        Raises:
            ValueError: if the entropies have no gradient (reentrant activation checkpointing).
        """
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with record_entropies(needs_gradient=torch.is_grad_enabled()) as record:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        penalty = outputs[_PENALTY] if isinstance(outputs, dict) else outputs[-1]
        weight = self.entropy_weight()
        for name, value in ((_PENALTY, penalty), ("entropy_nats", record.rows_LHN())):
            self._seen[name] += value.detach().float().mean()
        self._seen_batches += 1
        if weight > 0 or self.accelerator.num_processes > 1:  # where gradients are reduced, every parameter must have one
            loss = loss + weight * self._share(num_items_in_batch) * penalty.to(loss.device)
        return (loss, outputs) if return_outputs else loss

    def _share(self, num_items_in_batch: Tensor | int | None) -> float:
        """The factor of one micro-batch's penalty in its loss.

        Accumulation divides the loss by the number of micro-batches, unless it is scaled already, and several processes average it.
        """
        scaled = (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None
        scaled = scaled if self.loss_is_scaled_for_ga is None else self.loss_is_scaled_for_ga
        micro_batches = self.current_gradient_accumulation_steps
        if self.entropy.reduction == "listing":
            return (1 if scaled else micro_batches) * self.accelerator.num_processes
        return 1 / micro_batches if scaled else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The Trainer's training logs, with the penalty, the entropy and lambda added."""
        if "loss" in logs and self._seen_batches:
            logs |= {name: float(value) / self._seen_batches for name, value in self._seen.items()}
            logs["entropy_weight"] = self.entropy_weight()
            self._seen, self._seen_batches = dict.fromkeys(self._seen, 0.0), 0
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """The parameters with weight decay; the thresholds have none, because pulling them to 0 would ask for one-hot heads."""
        return [name for name in super().get_decay_parameter_names(model) if REGULARISER not in name]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimizer, which trains the thresholds too, even where its parameters were chosen without them."""
        optimizer = super().create_optimizer(model)
        if not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # there the optimizer holds parts of parameters
            self._add_thresholds(optimizer)
        return optimizer

    def _add_thresholds(self, optimizer: torch.optim.Optimizer) -> None:
        """Make an optimizer train the thresholds, if it does not already.

        Raises:
            ValueError: if its learning rates are already scheduled, one for each group that it has.
        """
        threshold_LH = self.regulariser.threshold_LH
        if any(parameter is threshold_LH for group in optimizer.param_groups for parameter in group["params"]):
            return
        if self.lr_scheduler is not None:
            raise ValueError(
                "The thresholds cannot join an optimizer whose schedule is already made: pass optimizers=(optimizer, None) and choose the "
                "schedule in TrainingArguments."
            )
        group: dict[str, Any] = {"params": [threshold_LH]}
        if "weight_decay" in optimizer.defaults:
            group["weight_decay"] = 0.0
        optimizer.add_param_group(group)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        save_file({"threshold_LH": self.regulariser.threshold_LH.detach().cpu().contiguous()}, folder / THRESHOLDS_FILE)
        (folder / SETTINGS_FILE).write_text(json.dumps(asdict(self.entropy), indent=1) + "\n", encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        self._load_renamed(folder)
        self._load_thresholds(folder)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_model_checkpoint is not None:
            self._load_thresholds(Path(self.state.best_model_checkpoint))

    def _load_renamed(self, folder: Path) -> None:
        """Weights filed under older names (GPT-NeoX's head): `from_pretrained` knows these names, the Trainer passes them over."""
        path = folder / "model.safetensors"
        if not path.is_file() or not isinstance(self.model, PreTrainedModel):
            return
        with safe_open(path, framework="pt") as file:
            renamed = set(file.keys()) - set(self.model.state_dict())
        if renamed:
            weights = type(self.model).from_pretrained(folder, dtype=self.model.dtype).state_dict()
            # The thresholds are the only parameters that such a file lacks; it has none that the model does not.
            self.model.load_state_dict(weights | {name: self.model.state_dict()[name] for name in (f"{REGULARISER}.threshold_LH",)})

    def _load_thresholds(self, folder: Path) -> None:
        """Take over the thresholds that lie in a folder.

        Raises:
            ValueError: if the folder has none, or has those of a model of other sizes.
        """
        path = folder / THRESHOLDS_FILE
        if not path.is_file():
            raise ValueError(f"{folder} holds no entropy thresholds: it was not saved by EntropyTrainer, so train from it as a new run.")
        saved = load_file(path)["threshold_LH"]
        threshold_LH = self.regulariser.threshold_LH
        if saved.shape != threshold_LH.shape:
            raise ValueError(f"{path} holds thresholds of shape {tuple(saved.shape)}, but the model needs {tuple(threshold_LH.shape)}.")
        with torch.no_grad():
            threshold_LH.copy_(saved)


def _add_penalty(model: nn.Module, _: Any, output: Any) -> Any:
    """Forward hook: adds the penalty to the model's outputs.

    It is computed here and not in `compute_loss`, because data parallelism finds the parameters in use from the forward pass's outputs.
    """
    record = active_record()
    if record is None or not model.training:
        return output
    penalty = getattr(model, REGULARISER)(record.rows_LHN()[:, None])
    # A plain dictionary: transformers' output classes know their fields, and are rebuilt from them alone.
    return {**output, _PENALTY: penalty} if isinstance(output, dict) else (*output, penalty)
