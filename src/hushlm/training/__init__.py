"""Training: the loop with its entropy watch, schedules, checkpoints and evaluation."""

from hushlm.training.checkpoint import Checkpoint, TrainingState, build_model, load_checkpoint, load_training_state, save_checkpoint
from hushlm.training.evaluation import Evaluation, evaluate
from hushlm.training.loop import train
from hushlm.training.optimiser import (
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    regulariser_weight,
    restore_optimiser,
    weight_decays,
)
from hushlm.training.other_checkpoints import with_fingerprints
from hushlm.training.preemption import Interrupted, Preempted
from hushlm.training.results import StepRecord, TrainingResult
from hushlm.training.watch import Divergence, EntropyWatch
from hushlm.training.world import World, linear_algebra_threads, open_world

__all__ = [
    "Checkpoint",
    "Divergence",
    "EntropyWatch",
    "Evaluation",
    "Interrupted",
    "Preempted",
    "StepRecord",
    "TrainingResult",
    "TrainingState",
    "World",
    "build_model",
    "evaluate",
    "learning_rate",
    "linear_algebra_threads",
    "load_checkpoint",
    "load_training_state",
    "make_optimiser",
    "open_world",
    "optimiser_tensors",
    "regulariser_weight",
    "restore_optimiser",
    "save_checkpoint",
    "train",
    "weight_decays",
    "with_fingerprints",
]
