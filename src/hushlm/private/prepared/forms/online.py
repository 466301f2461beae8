"""Every operation of a plan on words of shares, with prepared material: the online forms.

Of two shared numbers x and y, masked by A and B, both parties learn e = x - A and f = y - B, which are uniform whatever x and y are; then

    x y = A B + e B + A f + e f

is local: shares of A B were prepared, each party has its shares of A and B, and the client alone adds e f. Of a product with the server's
weights W the client sends its share of x less its mask R; the server computes (x - R) W by itself, and shares of R W were prepared.
Every product then has twice the fraction bits, and the engine truncates it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, assert_never

import numpy as np

from hushlm.architectures import POWER_FLOOR
from hushlm.cost.inverse_root import root_in_pieces
from hushlm.cost.tournament import kernel_tournament, reveal_tournament
from hushlm.plan import (
    Activate,
    ActivatedGate,
    Divide,
    Embed,
    Gate,
    Kernel,
    Mix,
    Normalise,
    Operation,
    PowerKernel,
    Prepend,
    Project,
    Reveal,
    RmsNormalise,
    Rotate,
    ScaleRows,
    Scores,
)
from hushlm.plan.needs import LookUpNeed, Where, is_prepared, operation_needs
from hushlm.private.engine.shares import Words, encode
from hushlm.private.engine.small_ring import SMALL_FRACTION_BITS
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.forms.activations import activate, activate_gate
from hushlm.private.prepared.forms.cache import OpenedRows
from hushlm.private.prepared.forms.embedding import look_up, whole_rows
from hushlm.private.prepared.forms.inverse import reciprocals
from hushlm.private.prepared.forms.inverse_root import inverse_roots
from hushlm.private.prepared.forms.kernel import power_of_scores, score_places
from hushlm.private.prepared.forms.products import centred_rows, multiply, project, scale_by_server, scale_rows, square, whole_product
from hushlm.private.prepared.forms.tournament import row_winners
from hushlm.private.prepared.material import Material
from hushlm.private.prepared.ring import full_product
from hushlm.private.prepared.values import ClientRows, ServerValue, SmallValue
from hushlm.private.program.generate import CANDIDATES, HEAD_WEIGHT
from hushlm.private.program.steps import NORM_EPSILON, SMALLEST_EPSILON, Arithmetic, arithmetic

__all__ = ["OnlineForms"]


class OnlineForms:
    """Stands where numpy or jax.numpy stands in the array programs of `hushlm.private.program`: `arithmetic` gives the online form of an
    operation, and the few functions that programs use beside it to move values (`where`, `sum`, `pad`) act on words.

    Args:
        desk: of this party.
        public: values known to both parties, by name; read when they are needed.

    Attributes:
        material: what is used up; None between answers.
        inputs: names of the variables that the next program reads.
    """

    def __init__(self, desk: Desk, public: dict[str, np.ndarray]) -> None:
        self._desk, self._public = desk, public
        self.material: Material | None = None
        self.inputs: Sequence[str] = ()
        self._caches: dict[str, OpenedRows] = {}

    def begin(self, material: Material) -> None:
        """Use `material` for the next answer, and forget the masks of the last one."""
        self.end()
        self.material = material

    def end(self) -> None:
        """Overwrite what is left of an answer's material, and the masks of its caches."""
        if self.material is not None:
            self.material.drop()
        for cache in self._caches.values():
            cache.erase()
        self.material, self._caches = None, {}

    @staticmethod
    def where(condition: np.ndarray, x: Words, y: Words | float) -> Words:
        """A selection by a public condition. A plain 0 must not make numbers of words (numpy would promote both to floats)."""
        return np.where(condition, x, np.uint64(0) if np.isscalar(y) and y == 0 else np.asarray(y, np.uint64))

    @staticmethod
    def sum(x: Words, axis: int, keepdims: bool = False) -> Words:
        return np.sum(x, axis, dtype=np.uint64, keepdims=keepdims)

    pad = staticmethod(np.pad)
    concatenate = staticmethod(np.concatenate)

    def arithmetic(self, operation: Operation) -> Arithmetic:
        """The online form of an operation: the arguments and results of `hushlm.private.program.steps.arithmetic`, as words."""
        if not is_prepared(operation):
            return self._by_engine(operation)
        desk, needs = self._desk, self._needs
        match operation:
            case Embed():
                return lambda one_hot_TV, table_VD, positions_TD: self._embed(operation, one_hot_TV, table_VD, positions_TD)
            case Normalise():
                return lambda x_TD: self._normalise(operation, self._centred(x_TD), NORM_EPSILON)
            case RmsNormalise():
                return lambda x_TD: self._normalise(operation, x_TD, max(operation.epsilon, SMALLEST_EPSILON))
            case Project():
                return lambda x_TI, weight, bias: self._project(operation, x_TI, weight, bias)
            case ScaleRows():
                return lambda q_HTE, inverse: scale_by_server(desk, self._taking(), needs(operation, heads=len(q_HTE))[0], q_HTE, inverse)
            case Prepend():
                return self._prepend
            case Rotate(width=width):
                return lambda *arguments: self._rotate(width, *arguments)
            case Scores() | Mix():
                return lambda x_HTN, y_HSE: self._attend(operation, x_HTN, y_HSE)
            case Kernel():
                return lambda s_HTS, allowed_TS: self._kernel(operation, s_HTS, allowed_TS)
            case PowerKernel():
                return lambda s_HTS, allowed_TS, roots_T1: self._power_kernel(operation, s_HTS, allowed_TS, roots_T1)
            case Divide():
                return lambda x_HTN, sums_HT: self._divide(operation, x_HTN, sums_HT)
            case Activate():
                return lambda x_TF: activate(desk, operation.kind, x_TF, self._squares(operation))
            case Gate(_, width):
                return lambda x_TN: multiply(desk, self._taking(), needs(operation)[0], x_TN[:, :width], x_TN[:, width:])
            case ActivatedGate():
                return lambda x_TN, *curve: self._activated_gate(operation, x_TN, *curve)
            case Reveal():
                return lambda row_1V: self._reveal(operation, row_1V)
            case _:
                assert_never(operation)

    def _taking(self) -> Material:
        assert self.material is not None, "no material: begin an answer first"
        return self.material

    @staticmethod
    def _needs(operation: Operation, **where: Any) -> tuple[Any, ...]:
        return operation_needs(operation, Where(**where))

    def _squares(self, operation: Operation) -> Callable[[Words], Words]:
        """A function that squares; it uses up the operation's needs one by one."""
        left = iter(self._needs(operation))
        return lambda x: square(self._desk, self._taking(), next(left), x)

    def _embed(self, operation: Embed, one_hot: ClientRows, table: ServerValue, positions: ServerValue) -> Words:
        desk = self._desk
        (need,) = self._needs(operation, weight=table.name)
        material = self._taking()
        if isinstance(need, LookUpNeed):
            rows = look_up(desk, material, need, one_hot, table)
        else:
            rows = whole_rows(desk, material, need, one_hot, table)
        return desk.widen(rows, 0) + positions.words(desk.fraction_bits)

    def _project(self, operation: Project, x_TI: Words, weight: ServerValue, bias: ServerValue) -> Words:
        (need,) = self._needs(operation, weight=weight.name)
        # Of the head, candidates take the columns of theirs: whatever is asked was prepared.
        ids = self._public.get(CANDIDATES) if weight.name == HEAD_WEIGHT else None
        return project(self._desk, self._taking(), need, x_TI, weight, bias, None if ids is None else ids.astype(np.int64))

    def _centred(self, x_TD: Words) -> Words:
        part = encode(np.asarray(1 / x_TD.shape[1]), self._desk.fraction_bits)
        return x_TD - self._desk.truncate(x_TD.sum(-1, dtype=np.uint64) * part)[:, None]

    def _normalise(self, operation: Normalise | RmsNormalise, x_TD: Words, epsilon: float) -> Words:
        desk, material, width = self._desk, self._taking(), operation.width
        whole, *products = self._needs(operation)
        left = iter(products)

        def by_engine(lengths_T: Words) -> Words:
            import jax

            for need in left:
                with material.take(need):
                    pass  # of no use here, and material is used in order
            key = ("inverse root", width, epsilon)
            return desk.program(key, lambda sums: jax.lax.rsqrt(sums * (1 / width) + epsilon), [desk.truncate(lengths_T)])[0]

        def in_pieces(lengths_T: Words) -> Words:
            return inverse_roots(desk, lengths_T, width, epsilon, lambda x, y: whole_product(desk, material, next(left), x, y))

        form = in_pieces if root_in_pieces(operation, desk.network) else by_engine
        return centred_rows(desk, material, whole, x_TD, form)

    def _prepend(self, k_GTE: Words, v_GTE: Words, prefix_k: ServerValue, prefix_v: ServerValue) -> tuple[Words, Words]:
        bits = self._desk.fraction_bits
        return np.concatenate([prefix_k.words(bits), k_GTE], 1), np.concatenate([prefix_v.words(bits), v_GTE], 1)

    def _activated_gate(self, operation: ActivatedGate, x_TN: Words, *curve: ServerValue) -> Words:
        desk, material, width = self._desk, self._taking(), operation.width
        left = iter(self._needs(operation))
        gate = activate_gate(
            desk, x_TN[:, width:], lambda x: square(desk, material, next(left), x), curve[0].words(desk.fraction_bits) if curve else None
        )
        return multiply(desk, material, next(left), x_TN[:, :width], gate)

    def _rotate(self, width: int, q_HTE: Words, k_HSE: Words, turns_2TR: np.ndarray, turns_2SR: np.ndarray) -> tuple[Words, Words]:
        """Products with public numbers are local; both products of an entry are added before the truncation."""
        desk, turned = self._desk, []
        for x, turn in ((q_HTE, turns_2TR), (k_HSE, turns_2SR)):
            own, factors = x[..., :width], encode(turn, desk.fraction_bits)
            paired = np.concatenate([own[..., width // 2 :], own[..., : width // 2]], -1)
            turned.append(own * factors[0] + paired * factors[1])
        flat = desk.truncate(np.concatenate([each.reshape(-1) for each in turned]))
        parts = np.split(flat, [turned[0].size])
        q, k = (part.reshape(each.shape) for part, each in zip(parts, turned, strict=True))
        return np.concatenate([q, q_HTE[..., width:]], -1), np.concatenate([k, k_HSE[..., width:]], -1)

    def _attend(self, operation: Scores | Mix, x_HTN: Words, y_HSE: Words) -> Words:
        """Scores and mix: x Y^T or x Y with the cache that the second input names, whose rows are opened once."""
        desk, name = self._desk, self.inputs[1]
        cache = self._caches.setdefault(name, OpenedRows(y_HSE.shape[0], y_HSE.shape[2]))
        (need,) = self._needs(operation, cache=name, before=cache.count)
        slots = np.arange(need.new) + (np.argmax(self._public["slot"]) if need.before else 0)
        keys, triangle = need.side == "keys", np.tril(np.ones((need.rows, need.opened), bool)) if need.triangle else None
        with self._taking().take(need) as item:
            live = cache.live(slots)
            # Of a row that a later one has replaced in the cache nothing is weighed.
            x = x_HTN if keys else np.where(live.current, x_HTN[:, :, live.slots], np.uint64(0))
            hidden = x - item["left"]
            kept = hidden if keys or triangle is None else hidden[:, triangle]
            e, f = desk.link.open(kept, y_HSE[:, slots] - item["right"])
            if kept is not hidden:
                whole = np.zeros_like(hidden)
                whole[:, triangle] = e
                e = whole
            cache.append(slots, f, item["right"])
            shift, masks = cache.differences, cache.masks
            second = masks + shift if desk.is_client else masks
            if keys:
                shift, second = shift.transpose(0, 2, 1), second.transpose(0, 2, 1)
            product = item["product"] + full_product(e, second) + full_product(item["left"], shift)
        if not keys:
            return desk.truncate(product)
        scores = np.zeros((need.heads, need.rows, y_HSE.shape[1]), np.uint64)
        scores[:, :, live.slots[live.current]] = product[:, :, live.current]
        if triangle is None:
            return desk.truncate(scores)
        # What a causal mask hides is never read.
        scores[:, triangle], scores[:, ~triangle] = desk.truncate(scores[:, triangle]), 0
        return scores

    def _kernel(self, operation: Kernel, s_HTS: Words, allowed_TS: np.ndarray) -> tuple[Words, Words]:
        places = score_places(operation)
        allowed_N = allowed_TS.reshape(-1)[places] > 0.5
        s_HN = s_HTS.reshape(operation.heads, -1)[:, places]
        form = kernel_tournament(operation, self._desk.network)
        power, squared = power_of_scores(self._desk, operation, s_HN, allowed_N, form), self._squares(operation)
        flat = power.reshape(-1)
        for _ in range(operation.squarings):
            flat = squared(flat)
        return _weights(s_HTS, places, allowed_N, flat)

    def _power_kernel(self, operation: PowerKernel, s_HTS: Words, allowed_TS: np.ndarray, roots_T1: np.ndarray) -> tuple[Words, Words]:
        desk, places, order = self._desk, score_places(operation), operation.squarings
        roots_N = np.broadcast_to(roots_T1, allowed_TS.shape).reshape(-1)[places]
        s_HN = s_HTS.reshape(operation.heads, -1)[:, places]
        power = desk.truncate(s_HN * encode(roots_N / 2**order, desk.fraction_bits)) + desk.constant(roots_N)
        flat, squared = power.reshape(-1), self._squares(operation)
        for _ in range(order):
            flat = squared(flat)
        added_N = desk.constant(np.where(roots_N > 0, POWER_FLOOR * roots_N**2**order, 1.0))
        return _weights(s_HTS, places, allowed_TS.reshape(-1)[places] > 0.5, flat.reshape(s_HN.shape) + added_N)

    def _divide(self, operation: Divide, x_HTN: Words, sums_HT: Words) -> Words:
        desk, material, sums_N = self._desk, self._taking(), sums_HT.reshape(-1)
        left = iter(self._needs(operation))
        if operation.polynomial:
            inverse = reciprocals(
                desk,
                sums_N,
                operation.largest,
                lambda x: square(desk, material, next(left), x),
                lambda x, y: whole_product(desk, material, next(left), x, y),
                operation.smallest,
            )
        else:
            (inverse,) = desk.program("1/x", lambda sums: 1.0 / sums, [sums_N])
        return scale_rows(desk, material, next(left), x_HTN.reshape(sums_N.size, -1), inverse).reshape(x_HTN.shape)

    def _reveal(self, operation: Reveal, row_1V: Words) -> Words | SmallValue:
        """The arg max is a tournament in the small ring, whose numbers are ids with the small ring's fraction bits."""
        import jax.numpy as jnp

        if operation.kind == "logits":
            return row_1V[-1] if operation.rows == 1 else row_1V
        if self._desk.network is None and operation.rows == 1:
            (answer,) = self._desk.small(("reveal", operation), arithmetic(operation, jnp), [row_1V])
            return SmallValue(answer)
        form = reveal_tournament(operation, self._desk.network)

        def program(row_1V: Any) -> Any:
            ids = jnp.asarray(np.arange(operation.vocabulary, dtype=np.int32) << SMALL_FRACTION_BITS)
            _, found = row_winners(jnp, row_1V, jnp.broadcast_to(ids, row_1V.shape), [operation.vocabulary], form)
            assert found is not None
            return found[:, 0]

        (answer,) = self._desk.small(("reveal", operation, operation.rows, form), program, [row_1V[-operation.rows :]])
        return SmallValue(answer)

    def _by_engine(self, operation: Operation) -> Arithmetic:
        """The engine's own program, as today, between words and words."""
        import jax.numpy as jnp

        results = 2 if isinstance(operation, Reveal) and operation.kind == "topk" else 1

        def run(*arguments: Words | ServerValue) -> Words | tuple[Words, ...]:
            words = [each.words(self._desk.fraction_bits) if isinstance(each, ServerValue) else each for each in arguments]
            found = self._desk.program(("engine", operation), arithmetic(operation, jnp), words, results=results)
            return found[0] if results == 1 else tuple(found)

        return run


def _weights(like_HTS: Words, places: np.ndarray, allowed_N: np.ndarray, flat: Words) -> tuple[Words, Words]:
    """Weights (H, T, S), zero but where they are allowed, and their row sums (H, T), of the numbers at `places`."""
    weights = np.zeros_like(like_HTS)
    heads = len(like_HTS)
    weights.reshape(heads, -1)[:, places] = np.where(allowed_N, flat.reshape(heads, -1), np.uint64(0))
    return weights, weights.sum(-1, dtype=np.uint64)
