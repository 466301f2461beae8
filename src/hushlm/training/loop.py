"""The training loop: cross-entropy, plus lambda times the entropy penalty where the architecture asks for it.

Legend: B batch, T tokens, H heads, L layers, V vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hushlm.config import RunConfig
from hushlm.data import Sampler, TokenStore
from hushlm.data.chat_files import read_chat_files
from hushlm.entropy import EntropyRegulariser
from hushlm.files import check_replaceable, check_writable, one_writer, what_to_do, write_atomic
from hushlm.model import LanguageModel
from hushlm.model.score_watch import watch_scores
from hushlm.training.checkpoint import Checkpoint, TrainingState, build_model, load_checkpoint, load_training_state, save_checkpoint
from hushlm.training.evaluation import Evaluation, evaluate
from hushlm.training.gradient import BatchLoss, backpropagate, head_entropies
from hushlm.training.memory import keep_freed_memory
from hushlm.training.optimiser import learning_rate, make_optimiser, optimiser_tensors, regulariser_weight, restore_optimiser
from hushlm.training.other_checkpoints import load_start, load_teacher, with_fingerprints
from hushlm.training.preemption import Termination, termination
from hushlm.training.records import LiveRows, entropy_verdict, layer_gradients, lines, statistics
from hushlm.training.results import StepRecord, TrainingResult
from hushlm.training.resume import checkpoint_of
from hushlm.training.team import Team, clip, total_norm, whole
from hushlm.training.track import Tracker, open_tracker
from hushlm.training.watch import Divergence, EntropyWatch
from hushlm.training.world import ONE_THREAD_BELOW_WIDTH, World, linear_algebra_threads, matrix_precision, open_world

__all__ = ["train"]


def train(
    config: RunConfig,
    store: TokenStore,
    *,
    on_step: Callable[[StepRecord], None] | None = None,
    resume_from: Path | Literal["auto"] | None = None,
    checkpoint_every: int | None = None,
) -> TrainingResult:
    """Train a model and write its checkpoint to `config.output`.

    The same config and store give the same bytes, whether the run was interrupted (by a kill at any moment) and resumed or not; with
    another number of threads, ranks or micro-batches, or another processor, sums may round differently, no more.

    metrics.jsonl has a row for step 1, every `watch_every`-th, every validation and the last step; docs/training.md lists its fields.
    While the run goes on they are in `<output>.metrics.jsonl`.

    Args:
        config: the run; without a start `shape.vocabulary` is replaced by the tokenizer's, and fingerprints of other checkpoints are
            filled in.
        store: the tokens of the corpus, from `open_token_store(config.data)`.
        on_step: called after every update; with several processes, at the first one.
        resume_from: a checkpoint of the same run to go on from; "auto" for the last whole one at `config.output`, if there is any.
        checkpoint_every: updates between checkpoints on the way; None writes only the final one.

    Raises:
        ValueError: one sentence, if `config.output` is not ours to replace or can't be written, a split is too short, `resume_from` is
            another run's, the teacher or the start does not fit, or the processes don't go with `training.parallel`. What was saved
            before stays as it was.
        Divergence: before an update that would spoil the weights. The rows so far are in its `metrics` and in
            `<output>.diverged.jsonl`; an earlier checkpoint stays as it was.
        Preempted: after SIGTERM, with a checkpoint of the updates made.
        Interrupted: the same after Ctrl-C; a KeyboardInterrupt.
    """
    if config.training.start is None:  # a model that is taken further may have rows for more tokens than its tokenizer knows
        config = replace(config, shape=replace(config.shape, vocabulary=store.vocabulary))
    config = with_fingerprints(config)
    check_replaceable(config.output)
    if config.training.device == "cpu" and config.shape.width >= ONE_THREAD_BELOW_WIDTH:
        keep_freed_memory()
    with (
        open_world(config.training) as world,
        linear_algebra_threads(config),
        torch.random.fork_rng(devices=[]),
        termination() as noted,
        ExitStack() as held,
    ):
        torch.manual_seed(config.training.seed + world.rank)

        def take() -> None:
            check_writable(config.output)
            held.enter_context(one_writer(config.output))

        world.first(take)
        run = _Run(config, store, world, resume_from)
        tracker = open_tracker(config.training.track, config.output, run.step, config.to_dict()) if world.rank == 0 else None
        try:
            with matrix_precision(config, world.device):
                return run.finish(on_step, checkpoint_every, noted, tracker)
        finally:
            if tracker is not None:
                tracker.close()


class _Run:
    """The state of a run between two updates."""

    def __init__(self, config: RunConfig, store: TokenStore, world: World, resume_from: Path | str | None) -> None:
        settings = config.training
        self.config, self.store, self.settings, self.world = config, store, settings, world
        self.sampler = Sampler(store.tokens["train"], settings.batch, config.shape.context, settings.seed)
        self.watch = EntropyWatch(config.shape.context, config.shape.vocabulary)
        self.metrics: list[dict[str, Any]] = []
        self.evaluation: Evaluation | None = None
        self.step = 0
        self.saved_step: int | None = None
        checkpoint = checkpoint_of(config, store.fingerprint, resume_from)
        self.teacher = load_teacher(config, store)
        model, regulariser = (checkpoint.model, checkpoint.regulariser) if checkpoint else build_model(config)
        start = None if checkpoint else load_start(config, store)
        if start is not None:
            model.load_state_dict(start.model.state_dict())
        # What is known of its conversations stays with a model that goes on from another.
        before = checkpoint or start
        self.beside = {} if before is None else read_chat_files(before.folder).contents()
        self.use(model, regulariser)
        if checkpoint is not None:
            self.restore(checkpoint)
        world.barrier()  # nobody reads the old checkpoint any more
        self.live = LiveRows(config.output, self.metrics) if world.rank == 0 else None

    def use(self, model: LanguageModel, regulariser: EntropyRegulariser | None) -> None:
        self.team = Team(model.train(), regulariser, self.settings, self.world, self.teacher)
        self.model, self.regulariser = self.team.model, regulariser
        modules: dict[str, nn.Module] = {"model": model} if regulariser is None else {"model": model, "regulariser": regulariser}
        self.optimiser = make_optimiser(modules, self.settings)
        self.parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def restore(self, checkpoint: Checkpoint) -> None:
        """Raises: ValueError if the checkpoint has no usable training state."""
        state = load_training_state(checkpoint)
        restore_optimiser(self.optimiser, state.optimiser)
        self.sampler.restore(state.sampler)
        states = torch.atleast_2d(state.random_state)
        if self.world.rank < len(states):  # a rank that joins later keeps the state of its own seed
            torch.set_rng_state(states[self.world.rank].clone())  # a row inside another tensor crashes it
        self.metrics, self.step, self.saved_step = checkpoint.metrics, checkpoint.step, checkpoint.step
        for row in self.metrics:
            self.watch.record(row["step"], row["loss"], row["layer_entropy_nats"])

    def finish(
        self, on_step: Callable[[StepRecord], None] | None, checkpoint_every: int | None, noted: Termination, tracker: Tracker | None
    ) -> TrainingResult:
        settings, first = self.settings, self.step
        start, cpu_start = time.perf_counter(), time.process_time()
        try:
            while self.step < settings.steps:
                loss, norm, row = self.update()
                seconds = time.perf_counter() - start
                if row is not None and self.live is not None:
                    self.live.add(row)
                if row is not None and tracker is not None:
                    tracker.log(row)
                if on_step is not None and self.world.rank == 0:
                    rate = (self.step - first) * settings.batch * self.config.shape.context / seconds
                    done = self.step
                    on_step(StepRecord(done, settings.steps, loss, learning_rate(done - 1, settings), norm, rate, seconds, row))
                if self.step < settings.steps:
                    stops = self.world.agree(noted.asked)
                    if stops or (checkpoint_every and self.step % checkpoint_every == 0):
                        self.save()
                    if stops:
                        raise noted.stopped(self.step, self.config.output)
        except Divergence as divergence:
            divergence.metrics = self.metrics
            if self.world.rank == 0:
                write_atomic(self.diverged_file, lines(self.metrics))
            raise
        if self.evaluation is None:  # resumed at the very end
            self.evaluation = self.validate()
        self.save()
        if self.world.rank == 0:
            self.diverged_file.unlink(missing_ok=True)  # an earlier attempt's
        return TrainingResult(
            config=self.config,
            model=load_checkpoint(self.config.output).model if settings.parallel == "fsdp" else self.team.release(),
            regulariser=self.regulariser,
            metrics=self.metrics,
            evaluation=self.evaluation,
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu_start,
            folder=self.config.output,
        )

    def update(self) -> tuple[float, float, dict[str, Any] | None]:
        """One step: loss in nats, gradient norm, and the metrics row if this step has one.

        Raises:
            Divergence: before the update.
        """
        settings, number = self.settings, self.step + 1
        last = number == settings.steps
        validates = last or number % settings.evaluate_every == 0
        records = validates or number == 1 or number % settings.watch_every == 0
        weight = regulariser_weight(self.step, settings.steps, self.config.entropy) if self.regulariser is not None else 0.0

        window_BT = self.sampler.next(self.world.share(settings.batch))
        self.optimiser.zero_grad(set_to_none=True)
        # Entropies cost memory and time: only where they are penalised or recorded.
        found = backpropagate(self.team, window_BT, settings.batch, weight, settings, with_entropy=records)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = total_norm(gradients)
        norm_value = norm.item()

        observed: dict[str, Any] = {}
        if records or not math.isfinite(found.total + norm_value):
            observed = self.observe(found, window_BT)
        layer_entropy_nats = observed.get("layer_entropy_nats", [])
        self.watch.check(number, found.total, norm_value, layer_entropy_nats, observed.get("nonfinite_gradients", []))
        if records:
            self.watch.record(number, found.loss, layer_entropy_nats)
            observed |= entropy_verdict(observed["head_entropy_nats"], self.config.shape.context)
            if self.model.architecture.power:
                observed["head_share_beyond"] = self.share_beyond(window_BT)

        rate = learning_rate(self.step, settings)
        if settings.clip_norm is not None and norm_value > settings.clip_norm:
            clip(gradients, settings.clip_norm, norm)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.step = number
        if not records:
            return found.loss, norm_value, None

        row: dict[str, Any] = {
            "step": number,
            "loss": found.loss,
            **({} if found.teacher_loss is None else {"teacher_loss": found.teacher_loss}),
            "penalty": found.penalty,
            "regulariser_weight": weight,
            "learning_rate": rate,
            "gradient_norm": norm_value,
            **observed,
            "temperature": statistics([p for name, p in self.model.named_parameters() if name.endswith(".temperature")]),
            "threshold": statistics(list(self.regulariser.parameters()) if self.regulariser is not None else []),
        }
        if validates:
            self.evaluation = self.validate()
            row |= {"validation_loss": self.evaluation.loss_nats, "validation_perplexity": self.evaluation.perplexity}
        self.metrics.append(row)
        return found.loss, norm_value, row

    def observe(self, found: BatchLoss, window_BT: Tensor) -> dict[str, Any]:
        """What the watch wants to know of an update's entropies and gradients."""
        entropy_nats_LH, nonfinite_entropies = found.entropy_nats_LH, found.nonfinite_entropies_L
        if entropy_nats_LH is None or nonfinite_entropies is None:
            # The step that broke is not a recorded one: look again, so that the report names the layers as they are now.
            entropy_nats_LH, nonfinite_entropies = head_entropies(self.team, window_BT, self.settings.batch, self.settings)
        head_entropy_nats = entropy_nats_LH.tolist()
        norms, nonfinite_gradients = layer_gradients(self.model, self.config.shape.layers)
        return {
            "head_entropy_nats": head_entropy_nats,
            "layer_entropy_nats": [sum(heads) / len(heads) for heads in head_entropy_nats],
            "layer_gradient_norm": norms,
            "nonfinite_entropies": nonfinite_entropies,
            "nonfinite_gradients": nonfinite_gradients,
        }

    def share_beyond(self, window_BT: Tensor) -> list[list[float]]:
        """L x H: which part of a batch's scores lies below -2^n, where the weights of a power kernel grow again."""
        with watch_scores(self.model) as watch:
            head_entropies(self.team, window_BT, self.settings.batch, self.settings)
        counts_2LH = self.world.sum(watch.counts_2LH.to(self.world.device))
        return (counts_2LH[0] / counts_2LH[1]).tolist()

    def validate(self) -> Evaluation:
        settings, tokens = self.settings, self.store.tokens["validation"]
        return evaluate(self.model, tokens, settings.batch, self.config.shape.context, settings.evaluation_batches, self.world)

    @property
    def diverged_file(self) -> Path:
        output = self.config.output.absolute()
        return output.with_name(f"{output.name}.diverged.jsonl")

    def save(self) -> None:
        """Every rank takes part, the first one writes.

        Raises:
            ValueError: one sentence, if it could not be written; the checkpoint before it is still there.
        """
        weights = {name: whole(tensor) for name, tensor in self.model.state_dict().items()}
        # In one order on every rank: putting shards together is a joint act, and a restored state's own order differs from rank to rank.
        optimiser = {name: whole(tensor) for name, tensor in sorted(optimiser_tensors(self.optimiser).items())}
        randoms = self.world.gather(torch.get_rng_state().to(self.world.device)).cpu()

        def write() -> None:
            try:
                save_checkpoint(
                    self.config.output,
                    config=self.config,
                    model=weights,
                    tokenizer=self.store.tokenizer,
                    regulariser=self.regulariser,
                    metrics=self.metrics,
                    step=self.step,
                    corpus=self.store.corpus_name,
                    corpus_fingerprint=self.store.fingerprint,
                    state=TrainingState(optimiser, dict(self.sampler.state()), randoms),
                    beside=self.beside,
                )
            except OSError as error:
                kept = f"that of step {self.saved_step} is whole" if self.saved_step else "there is none before it"
                raise ValueError(
                    f"The checkpoint of step {self.step} could not be written to {self.config.output} ({error.strerror}); {kept}. "
                    f"{what_to_do(error)} and go on with --resume auto."
                ) from error

        self.world.first(write)
        self.saved_step = self.step
