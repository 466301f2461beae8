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
from hushlm.huggingface.patched_attention import active_record, record_entropies, use_entropy_attention
from hushlm.training.optimiser import regulariser_weight

__all__ = ["EntropyTrainer"]

THRESHOLDS_FILE = "entropy_thresholds.safetensors"
SETTINGS_FILE = "entropy_config.json"
_ATTRIBUTE = "entropy_regulariser"
_PENALTY = "entropy_penalty"


class EntropyTrainer(Trainer):
    """Trains any causal language model of transformers with loss + lambda * penalty (arXiv 2501.03489, Algorithm 1).

    The model's attention is exchanged for one that knows its entropies. The thresholds theta (L, H) are parameters of the model while it
    is trained (`model.entropy_regulariser.threshold_LH`, no weight decay), and lie in `entropy_thresholds.safetensors` beside each
    checkpoint, so that the checkpoint itself stays one that plain transformers reads. Evaluation reports the plain loss.

    Gradient accumulation and several processes: with reduction "listing", which sums over rows, an update's penalty is the sum over all its
    rows, however they are split. With "algorithm", which averages a head's entropy over the batch first, each micro-batch of each process
    gives a penalty of its own, and the update takes their mean: the same as one large batch only where all of them are on the same side of
    the margin and alike.

    Logged beside the loss: `entropy_penalty` and `entropy_nats` (mean over heads and rows), both means since the last log, and
    `entropy_weight`, lambda.

    Args:
        model: a causal language model; also what `model_init` would give is taken only as a model.
        entropy: lambda and its end, gamma, theta at the start, and the reduction; the temperature's start is not used.
        context: T, whose log is the regulariser's maximum: give the length of your sequences. None takes the model's longest.
        arguments: all others of `Trainer`.

    Raises:
        ValueError: if the model's attention cannot be exchanged, or there is no model.
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
            raise ValueError("EntropyTrainer needs a model: the thresholds have its numbers of layers and heads.")
        use_entropy_attention(model)
        config = model.config.get_text_config()
        regulariser = EntropyRegulariser(
            config.num_hidden_layers,
            config.num_attention_heads,
            context or config.max_position_embeddings,
            tolerance=entropy.tolerance,
            initial_threshold=entropy.initial_threshold,
            reduction=entropy.reduction,
        )
        model.add_module(_ATTRIBUTE, regulariser)
        model.register_forward_hook(_add_penalty)
        name = f"{_ATTRIBUTE}.threshold_LH"
        model._keys_to_ignore_on_save = {*(model._keys_to_ignore_on_save or ()), name}
        self.entropy = entropy
        self._seen: dict[str, Tensor | float] = {_PENALTY: 0.0, "entropy_nats": 0.0}
        self._seen_batches = 0
        super().__init__(model, args, *arguments, **named)

    @property
    def regulariser(self) -> EntropyRegulariser:
        """With the learned thresholds."""
        regulariser = getattr(self.accelerator.unwrap_model(self.model), _ATTRIBUTE)
        assert isinstance(regulariser, EntropyRegulariser)
        return regulariser

    def entropy_weight(self) -> float:
        """lambda of the present update."""
        return regulariser_weight(self.state.global_step, max(1, self.state.max_steps), self.entropy)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The Trainer's loss; in training, with lambda times the penalty."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with record_entropies() as record:
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
        """Factor to one micro-batch's penalty, for accumulation (unless the loss is scaled already) and processes will divide it."""
        scaled = (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None
        scaled = scaled if self.loss_is_scaled_for_ga is None else self.loss_is_scaled_for_ga
        micro_batches = self.current_gradient_accumulation_steps
        if self.entropy.reduction == "listing":
            return (1 if scaled else micro_batches) * self.accelerator.num_processes
        return 1 / micro_batches if scaled else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the regulariser saw to the Trainer's own training logs."""
        if "loss" in logs and self._seen_batches:
            logs |= {name: float(value) / self._seen_batches for name, value in self._seen.items()}
            logs["entropy_weight"] = self.entropy_weight()
            self._seen, self._seen_batches = dict.fromkeys(self._seen, 0.0), 0
        super().log(logs, start_time)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Without the thresholds: pulling them to 0 would ask for one-hot heads."""
        return [name for name in super().get_decay_parameter_names(model) if _ATTRIBUTE not in name]

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
            self.model.load_state_dict(weights, strict=False)

    def _load_thresholds(self, folder: Path) -> None:
        """Raises: ValueError if the folder has none, or those of a model of other sizes."""
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
    """Forward hook: the penalty among the model's outputs.

    It is there, and not made in `compute_loss`, because data parallelism follows the outputs of the forward pass to the parameters in use.
    """
    record = active_record()
    if record is None or not model.training:
        return output
    penalty = getattr(model, _ATTRIBUTE)(record.rows_LHN()[:, None])
    # A plain dictionary: transformers' output classes know their fields, and are rebuilt from them alone.
    return {**output, _PENALTY: penalty} if isinstance(output, dict) else (*output, penalty)
