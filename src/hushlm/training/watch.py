"""The entropy watch: stops a diverging run before it spoils the weights, and says which layers gave way.

Without normalisation a run breaks in a recognisable way: the attention of the deep layers falls to one-hot (zero entropy),
then the loss explodes or turns NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["COLLAPSED_SHARE", "PATIENCE_RECORDS", "Divergence", "EntropyWatch"]

COLLAPSED_SHARE = 0.01
"""A layer whose mean entropy is below this share of log T counts as collapsed. Trained layers stay above 0.1, diverging ones show 0.00."""

PATIENCE_RECORDS = 5
"""Records in a row with both collapse and a blown-up loss before the run is stopped: shorter spikes can heal."""

BLOWN_UP_FACTOR = 2.0
"""A loss blew up when it exceeds this multiple of the best one seen, and uniform guessing, and the first record: learning was undone."""


class Divergence(Exception):  # noqa: N818 - the contract's name
    """Training was stopped before an update that would have spoiled the weights.

    Attributes:
        step: the update that was not made, counted from 1.
        layers: collapsed layers, counted from 0.
        reason: what happened and what to try, one or two sentences.
        metrics: the rows recorded so far.
    """

    def __init__(self, step: int, layers: Sequence[int], reason: str, metrics: Sequence[dict[str, Any]] = ()) -> None:
        # All arguments, so that the exception survives the way back from a worker process.
        super().__init__(step, layers, reason, metrics)
        self.step = step
        self.layers = tuple(layers)
        self.reason = reason
        self.metrics = list(metrics)

    def __str__(self) -> str:
        return self.reason


class EntropyWatch:
    """Follows loss and layer entropies over a run.

    Its state is a function of the metrics rows seen: a resumed run replays them.
    """

    def __init__(self, context: int, vocabulary: int) -> None:
        """
        Args:
            context: T, whose logarithm is the greatest entropy.
            vocabulary: V, whose logarithm is the loss of uniform guessing.
        """
        self._collapsed_below_nats = COLLAPSED_SHARE * math.log(context)
        self._uniform_loss_nats = math.log(vocabulary)
        self._since: dict[int, int] = {}
        self._layers = 0
        self._first_loss = self._best_loss = math.inf
        self._blown_up_records = 0

    def record(self, step: int, loss: float, layer_entropy_nats: Sequence[float]) -> None:
        """Note a record of a healthy step.

        Args:
            step: counted from 1.
            loss: cross-entropy in nats.
            layer_entropy_nats: mean entropy of each layer.

        Raises:
            Divergence: if most of the deeper half's layers are collapsed and the loss has blown up, `PATIENCE_RECORDS` records in a row.
        """
        self._note(step, layer_entropy_nats)
        if self._first_loss == math.inf:
            self._first_loss = loss
        self._best_loss = min(self._best_loss, loss)
        deep = range(self._layers // 2, self._layers)
        collapsed = sum(layer in self._since for layer in deep) * 2 > len(deep)
        blown_up = loss > max(BLOWN_UP_FACTOR * self._best_loss, self._first_loss, self._uniform_loss_nats)
        self._blown_up_records = self._blown_up_records + 1 if collapsed and blown_up else 0
        if self._blown_up_records >= PATIENCE_RECORDS:
            raise self._divergence(
                step, f"the loss blew up to {loss:.3g} nats from a best of {self._best_loss:.3g}, for {PATIENCE_RECORDS} records in a row"
            )

    def check(
        self,
        step: int,
        loss: float,
        gradient_norm: float,
        layer_entropy_nats: Sequence[float],
        nonfinite_gradients: Sequence[int] = (),
    ) -> None:
        """Refuse an update that is not finite.

        Args:
            step: counted from 1.
            loss: the step's loss, penalty included.
            gradient_norm: over all parameters.
            layer_entropy_nats: the mean entropy of every layer at this step, empty where it is not known.
            nonfinite_gradients: how many numbers of each layer's gradient are not finite, where known.

        Raises:
            Divergence: if loss, norm or an entropy is not finite; its sentence names the collapsed layers and since when.
        """
        wrong = [f"the {name} is {value}" for name, value in (("loss", loss), ("gradient norm", gradient_norm)) if not math.isfinite(value)]
        if not all(map(math.isfinite, layer_entropy_nats)):
            wrong.append("attention is not finite in " + _names([i for i, e in enumerate(layer_entropy_nats) if not math.isfinite(e)]))
        if wrong and any(nonfinite_gradients):
            layers = [layer for layer, count in enumerate(nonfinite_gradients) if count]
            wrong.append(f"{sum(nonfinite_gradients):,} numbers of the gradient in {_names(layers)} are not finite")
        if wrong:
            self._note(step, layer_entropy_nats)
            raise self._divergence(step, " and ".join(wrong))

    def _note(self, step: int, layer_entropy_nats: Sequence[float]) -> None:
        self._layers = max(self._layers, len(layer_entropy_nats))
        for layer, entropy in enumerate(layer_entropy_nats):
            if entropy < self._collapsed_below_nats:
                self._since.setdefault(layer, step)
            elif math.isfinite(entropy):  # of a layer that is already NaN, the last finite word stands
                self._since.pop(layer, None)

    def _divergence(self, step: int, event: str) -> Divergence:
        layers = sorted(self._since)
        if layers:
            since = min(self._since.values())
            seen = f"since step {since}, {step - since} steps" if since < step else "at this step"
            where = f"; the attention entropy of {_names(layers)} (of {self._layers}, counted from 0) has been about zero ({seen})"
        else:
            where = "; no layer's attention entropy had collapsed in the records before"
        return Divergence(
            step,
            layers,
            f"Training was stopped before update {step}: {event}{where}. "
            "Try a lower learning rate, gradient clipping, a scaled FFN (ScFuFFN) or the entropy regulariser (EReg).",
        )


def _names(layers: Sequence[int]) -> str:
    """ "layer 3", "layers 3-5 and 7": runs are drawn together."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    parts = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"layer{'s' if len(layers) > 1 else ''} {text}"
