"""Private generation: the forward passes over a prompt and over each further token, which both parties run at the same time.

A first pass over the prompt predicts the first token. Each further token takes a pass over one row, with keys and values kept as shares
inside the engine. Lengths are rounded up to buckets, so that programs are compiled once for each bucket and not for each token. The true
length is public, and padding is masked by public masks, which cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from types import ModuleType

import numpy as np

from hushlm.plan import (
    STREAMS,
    Plan,
    Reveal,
    Rotate,
    ServerTensor,
    Step,
    StepName,
    Tensor,
    Value,
    bucket_length,
    decode_plan,
    prefill_plan,
    server_tensors,
    tensor_name,
)
from hushlm.plan.protocol_settings import SET_UP_WIDTH
from hushlm.private.engine import Engine, Party
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.attention_kernel import weight_roots
from hushlm.private.program.backend import Backend, EngineBackend
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.drafts import Draft, accepted, padded_guesses
from hushlm.private.program.rotary_turns import turns
from hushlm.private.program.sampling import Sampling
from hushlm.private.program.step_programs import step_program
from hushlm.private.program.steps import Arithmetic, Array
from hushlm.private.program.token_answer import StepTraffic, TokenAnswer

__all__ = ["CANDIDATES", "HEAD_WEIGHT", "PrivateGenerator"]

OnStep = Callable[[Step, int, int, Traffic], None]
CACHED = (Value.KEYS, Value.VALUES)
ROOTS = {Value.MASK: Value.ROOTS, "mask_last": "roots_last"}
"""Names of the public roots of a power kernel, by the names of the masks that they belong to."""
LAST_ROW = {Value.MASK: "mask_last", Value.ROOTS: "roots_last"}
"""The variables of public values for the one row that the next token is predicted from."""

CANDIDATES = "candidates"
"""The public variable that holds the token ids of the head's columns, where these are not all."""

HEAD_WEIGHT, HEAD_BIAS = (tensor_name(StepName.HEAD, None, tensor) for tensor in (Tensor.WEIGHT, Tensor.BIAS))


def _narrow(xp: ModuleType) -> Arithmetic:
    """A program that returns, as (1, D), the row of (T, D) that a public one-hot vector (T,) selects."""
    return lambda x_TD, slot_T: xp.sum(xp.where(slot_T[:, None] > 0.5, x_TD, 0.0), 0, keepdims=True)


def _update(xp: ModuleType) -> Arithmetic:
    """A program that writes new keys or values (H, R, E) into a cache (H, S, E), where public one-hot vectors (R, S) say."""

    def update(cache_HSE: Array, new_HRE: Array, slots_RS: np.ndarray) -> Array:
        for row in range(new_HRE.shape[1]):
            cache_HSE = xp.where(slots_RS[row][None, :, None] > 0.5, new_HRE[:, row : row + 1], cache_HSE)
        return cache_HSE

    return update


class PrivateGenerator:
    """The generator of one session. Both parties make the same calls in the same order.

    Args:
        engine: this party's engine, an engine that simulates both parties, or another `Backend`.
        description: the program to run, which is the same at both parties.
        weights: the server's tensors, or None at the client.
    """

    def __init__(self, engine: Engine | Backend, description: ProgramDescription, weights: dict[str, np.ndarray] | None) -> None:
        self._backend: Backend = EngineBackend(engine) if isinstance(engine, Engine) else engine
        self._settings = engine.settings if isinstance(engine, Engine) else description.engine
        self._description, self._weights = description, weights
        self._architecture, self._shape = description.parsed_architecture, description.shape
        assert self._backend.knows_server == (weights is not None)
        whole = prefill_plan(self._architecture, self._shape, self._shape.context, None, description.rewrites)
        one = decode_plan(self._architecture, self._shape, self._shape.context, None, description.rewrites)
        tensors = {tensor.name: tensor for plan in (whole, one) for step in plan.steps for tensor in server_tensors(plan, step)}
        self._head = [tensors.pop(name) for name in (HEAD_WEIGHT, HEAD_BIAS)]
        self._candidates: tuple[int, ...] | None = None
        """Whose columns of the head are installed; () are all, None is not yet."""
        for tensor in tensors.values():
            # Tensors with an entry for each position are installed pass by pass.
            if tensor.tensor.position_axis is None:
                self._backend.put(tensor.name, Party.SERVER, tensor.shape, self._weight(tensor))

    def install_head(self, candidates: tuple[int, ...] = ()) -> None:
        """Install the head, or of it the columns of some candidates, unless that was done already."""
        if candidates == self._candidates:
            return
        self._candidates = candidates
        if candidates:
            self._backend.put_public(CANDIDATES, np.array(candidates))
        for tensor in self._head:
            value, shape = self._weight(tensor), tensor.shape
            if candidates:
                value, shape = None if value is None else value[..., list(candidates)], (*shape[:-1], len(candidates))
            self._backend.put(tensor.name, Party.SERVER, shape, value)

    def _weight(self, tensor: ServerTensor) -> np.ndarray | None:
        """A tensor as it was exported, at the server; None at the client."""
        if self._weights is None:
            return None
        value, shape = self._weights[tensor.name], tensor.stored_shape(self._shape.context)
        assert value.shape == shape, (tensor.name, value.shape, shape)
        return value

    def set_up(self) -> Traffic:
        """Do what a session needs once, keys and first oblivious transfers, so that the bytes of each question are its own.

        It is brought about by a product, a comparison and an exponential that are large enough for every thread of the engine to start.

        Returns:
            What this party sent and received.
        """
        shape, square = (self._settings.set_up_rows, SET_UP_WIDTH), (SET_UP_WIDTH, SET_UP_WIDTH)
        self._backend.put("warm_client", Party.CLIENT, shape, np.ones(shape) if self._backend.knows_client else None)
        self._backend.put("warm_server", Party.SERVER, square, np.ones(square) if self._backend.knows_server else None)
        return self._backend.run(
            "set-up",
            lambda xp: lambda a, b: xp.exp(xp.maximum((a @ b) * a, -1.0) * -0.01) @ b,
            ("warm_client", "warm_server"),
            ("warm",),
            (),
        )

    def generate(
        self,
        prompt_tokens: Sequence[int] | None,
        prompt_length: int,
        new_tokens: int,
        reveal: RevealPolicy | None = None,
        on_step: OnStep | None = None,
        choose: Callable[[TokenAnswer], int] | None = None,
        draft: Draft | None = None,
    ) -> Iterator[TokenAnswer]:
        """Continue a prompt.

        Args:
            prompt_tokens: the token ids of the prompt at the client, or None at the server.
            prompt_length: how many tokens the prompt has, which is public.
            new_tokens: how many tokens to generate, which is public.
            reveal: what the client learns of each new token's logits; the arg max by default.
            on_step: called after each step with the step, its number in this pass, the number of steps in the pass, and its traffic.
            choose: chooses, at the client, the token to go on with where the largest logits or all of them are revealed; by default it is
                the one with the largest logit.
            draft: guesses tokens, and checks them several at a time. What a pass moved is told with the first token that it brought.

        Yields:
            Each new token with what was revealed of it, as soon as it is known.

        Raises:
            ValueError: if prompt, answer and guesses do not fit the context together, if a token is not in the vocabulary, or if tokens are
                to be guessed that are not chosen greedily.
        """
        reveal = reveal or RevealPolicy()
        greedy = choose is None
        choose = choose or Sampling().chooser(reveal)
        self._check(prompt_tokens, prompt_length, new_tokens, draft.guesses if draft else 0)
        if reveal.candidates and (new_tokens > 1 or reveal.candidates[-1] >= self._shape.vocabulary):
            raise ValueError(f"Candidates are for one new token, not {new_tokens}, and must be below {self._shape.vocabulary}.")
        self.install_head(reveal.candidates)
        if draft is not None and (not greedy or reveal.kind == "topk"):
            raise ValueError("Guessed tokens are checked against the likeliest ones: answer greedily, and reveal the token or all logits.")
        policy = reveal.operation(self._shape.vocabulary)
        length = bucket_length(prompt_length, self._shape.context)
        plan = prefill_plan(self._architecture, self._shape, length, policy, self._description.rewrites)
        tokens = list(prompt_tokens) if prompt_tokens is not None else None
        rows, known, done = 1 + (draft.guesses if draft else 0), tokens, 0
        while done < new_tokens:
            if done:
                keys = bucket_length(prompt_length + done - 1 + rows, self._shape.context)
                if keys > length:
                    self._grow(length, keys)
                    length = keys
                plan = decode_plan(self._architecture, self._shape, length, policy, self._description.rewrites, rows)
            guesses: list[int] = []
            if done and draft and known is not None:
                guesses = padded_guesses(draft.guess, known, draft.guesses, self._shape.vocabulary)
            answers = self._forward(plan, None if tokens is None else tokens + guesses, prompt_length + done - 1, on_step)
            if self._backend.knows_client:
                if reveal.candidates:
                    answers = [replace(each, token=reveal.candidates[each.token]) for each in answers if each.token is not None]
                answers = [replace(each, token=choose(each) if each.token is None else each.token) for each in answers]
            count = 1
            if done and draft:
                right = None
                if known is not None:
                    right = len(accepted(guesses, [each.token for each in answers if each.token is not None], new_tokens - done))
                count, moved = draft.tell(right)
                answers[0] = replace(answers[0], traffic=answers[0].traffic + moved)
                if not 1 <= count <= min(rows, new_tokens - done):
                    raise ConnectionError(f"The client says that a pass of {rows} rows brought {count} tokens.")
            for answer in answers[:count]:
                if known is not None and answer.token is not None:
                    known, tokens = [*known, answer.token], [answer.token]
                yield answer
            done += count

    def _check(self, prompt_tokens: Sequence[int] | None, prompt_length: int, new_tokens: int, guesses: int) -> None:
        context, vocabulary = self._shape.context, self._shape.vocabulary
        if prompt_length < 1 or new_tokens < 1 or prompt_length + new_tokens > context:
            raise ValueError(
                f"A prompt of {prompt_length} tokens and an answer of {new_tokens} must each hold at least one token and fit the "
                f"context of {context} together: shorten one of them."
            )
        if prompt_length + new_tokens + guesses > context:
            raise ValueError(
                f"Beside a prompt of {prompt_length} tokens and an answer of {new_tokens} there is no room in the context of {context} for "
                f"{guesses} guesses a pass: shorten one of them, or guess fewer."
            )
        assert (prompt_tokens is not None) == self._backend.knows_client
        if prompt_tokens is not None:
            assert len(prompt_tokens) == prompt_length
            if not all(0 <= token < vocabulary for token in prompt_tokens):
                raise ValueError(f"The prompt has a token outside 0 to {vocabulary - 1}: was it made by another tokenizer?")

    def _forward(self, plan: Plan, tokens: list[int] | None, position: int, on_step: OnStep | None) -> list[TokenAnswer]:
        """Run one pass. At `position` stands the last token of a prompt, which is also its row, or the first one of further tokens."""
        self._install(plan, tokens, position)
        counted: list[StepTraffic] = []
        names: dict[Value, str] = {value: value for value in (Value.ONE_HOT, Value.MASK, Value.ROOTS, Value.TURNS)}
        names |= {Value.TURNS_QUERY: Value.TURNS} | (LAST_ROW if plan.rows == 1 else {})
        for index, step in enumerate(plan.steps):
            traffic = self._run_step(plan, step, names)
            counted.append(StepTraffic(step.name, step.layer, traffic))
            if on_step is not None:
                on_step(step, index, len(plan.steps), traffic)
        total = sum((entry.traffic for entry in counted), Traffic())
        return self._open(plan.steps[-1].operation, total, tuple(counted))

    def _install(self, plan: Plan, tokens: list[int] | None, position: int) -> None:
        """Install the inputs of a pass: the client's one-hot tokens, the server's positions and temperatures, and public masks."""
        backend, vocabulary = self._backend, self._shape.vocabulary
        one_hot = None
        if tokens is not None:
            one_hot = np.zeros((plan.rows, vocabulary), np.float32)
            one_hot[np.arange(len(tokens)), tokens] = 1
        backend.put(Value.ONE_HOT, Party.CLIENT, (plan.rows, vocabulary), one_hot)
        first = position if plan.further else 0
        for tensor in (tensor for step in plan.steps for tensor in server_tensors(plan, step)):
            if (axis := tensor.tensor.position_axis) is not None:
                # A single row is the one that the next token is predicted from, also in the last layer of a longer pass.
                rows = tensor.shape[axis]
                start = position if rows == 1 else first
                value = self._weight(tensor)
                part = None if value is None else value.take(range(start, start + rows), axis)
                backend.put(tensor.name, Party.SERVER, tensor.shape, part)
        prefix = self._shape.prefix  # the text's positions start after it
        queries = np.arange(plan.rows)[:, None] + first + prefix
        keys = np.arange(plan.keys)[None]
        for name, mask in ((Value.MASK, keys <= queries), ("mask_last", keys <= position + prefix)):
            backend.put_public(name, mask.astype(np.float32))
            if self._architecture.power:
                backend.put_public(ROOTS[name], weight_roots(mask, self._architecture.squarings))
        if self._architecture.is_rotary:
            width, base = self._shape.rotary_width, self._shape.rotary_base
            backend.put_public(Value.TURNS, turns(first + prefix, plan.rows, width, base))
            backend.put_public("turns_last", turns(position + prefix, 1, width, base))
        # Of a row of the prompt, or of places in the cache.
        slots, slot = (plan.keys, position + prefix) if plan.further else (plan.rows, position)
        backend.put_public("slot", (np.arange(slots) == slot).astype(np.float32))
        if plan.further:
            backend.put_public("slots", (np.arange(plan.keys) == queries).astype(np.float32))

    def _run_step(self, plan: Plan, step: Step, names: dict[Value, str]) -> Traffic:
        """Run a step. `names` says which variable holds each value, and is updated with the step's results."""
        program = step_program(plan, step)
        if step.name.starts_last_row:
            for stream in STREAMS:
                if stream in names:
                    self._local("narrow", _narrow, (names[stream], "slot"), stream.last_row, ("slot",))
                    names[stream.last_row] = stream.last_row
            names |= {**LAST_ROW, Value.TURNS_QUERY: "turns_last"}
        inputs = [names[value] for value in program.inputs]
        public = [names[value] for value in program.public]
        outputs = [self._variable(plan, step, value) for value in program.outputs]
        tensors = [tensor.name for tensor in program.tensors]
        traffic = self._backend.run(program.key, program.build, [*inputs, *tensors], outputs, public)
        names |= dict(zip(program.outputs, outputs, strict=True))
        if step.name.ends_all_rows:
            names |= {stream: names[stream.last_row] for stream in STREAMS if stream in names}
        # The cache holds keys in the form in which the scores read them: turned, where positions are rotary.
        if Value.KEYS in program.outputs and plan.further and isinstance(step.operation, Rotate) == self._architecture.is_rotary:
            for part in CACHED:
                cache = f"{step.layer}.cache.{part}"
                self._local("update", _update, (cache, names[part], "slots"), cache, ("slots",))
                names[part] = cache
        return traffic

    @staticmethod
    def _variable(plan: Plan, step: Step, value: Value) -> str:
        """The variable of a value. Each layer's keys and values are kept; the next layer overwrites all other values."""
        if value in CACHED:
            return f"new.{value}" if plan.further else f"{step.layer}.cache.{value}"
        return value

    def _grow(self, length: int, keys: int) -> None:
        """Lengthen every cache with zeros from `length` to `keys`, which is the next bucket."""
        for layer in range(self._shape.layers):
            for part in CACHED:
                cache = f"{layer}.cache.{part}"
                self._local(("grow", keys), lambda xp: lambda kept: xp.pad(kept, ((0, 0), (0, keys - length), (0, 0))), (cache,), cache)

    def _local(
        self, key: Hashable, build: Callable[[ModuleType], Arithmetic], inputs: Sequence[str], output: str, public: Sequence[str] = ()
    ) -> None:
        """Run a program that must not send anything."""
        traffic = self._backend.run(key, build, inputs, (output,), public)
        assert traffic.total_bytes == 0, f"{key} moved {traffic.total_bytes} bytes"

    def _open(self, operation: object, total: Traffic, counted: tuple[StepTraffic, ...]) -> list[TokenAnswer]:
        """Open the answer to the client alone: one for each row, of which the first has the traffic."""
        assert isinstance(operation, Reveal)
        answer, traffic = self._backend.reveal(Value.ANSWER, Party.CLIENT)
        total += traffic
        logits = None
        if operation.kind == "topk":
            logits, traffic = self._backend.reveal(Value.ANSWER_LOGITS, Party.CLIENT)
            total += traffic
        moved = [(total, counted)] + [(Traffic(), ())] * (operation.rows - 1)
        if answer is None:
            return [TokenAnswer(None, None, None, *each) for each in moved]
        match operation.kind:
            case "token":
                return [TokenAnswer(round(float(token)), None, None, *each) for token, each in zip(answer, moved, strict=True)]
            case "topk":
                assert logits is not None
                top = [(round(float(i)), float(value)) for i, value in zip(answer, logits, strict=True)]
                return [TokenAnswer(None, top, None, total, counted)]
            case "logits":
                rows = np.atleast_2d(np.asarray(answer))
                return [TokenAnswer(None, None, row, *each) for row, each in zip(rows, moved, strict=True)]
