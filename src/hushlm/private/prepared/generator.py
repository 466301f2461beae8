"""Prepared generation: material first, while nobody asks; then answers that use it up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from hushlm.cost.network import Network
from hushlm.plan import bucket_length
from hushlm.plan.needs import LookUpNeed, ProjectNeed, answer_needs
from hushlm.plan.protocol_settings import SET_UP_WIDTH
from hushlm.private.engine import Traffic
from hushlm.private.engine.shares import Words
from hushlm.private.prepared.desk import Desk
from hushlm.private.prepared.material import Material, MaterialError
from hushlm.private.prepared.offline import OnWork, Preparer
from hushlm.private.prepared.placing import bucket_ids, kept_places, placed_guesses, prompt_buckets
from hushlm.private.prepared.prepared_backend import PreparedBackend
from hushlm.private.prepared.range_check import check_range
from hushlm.private.program.description import ProgramDescription, RevealPolicy
from hushlm.private.program.drafts import Draft, Guess, look_up
from hushlm.private.program.generate import OnStep, PrivateGenerator
from hushlm.private.program.token_answer import TokenAnswer

__all__ = ["PreparedGenerator"]


class PreparedGenerator:
    """One party's end of prepared answers. Both parties make the same calls in the same order.

    Args:
        desk: of this party; several generators may share one, with its compiled programs, one after the other.
        description: what is run; the same at both parties.
        weights: the server's tensors; None at the client.

    Raises:
        ValueError: if the weights do not fit prepared forms, as far as a sample prompt tells.
    """

    def __init__(self, desk: Desk, description: ProgramDescription, weights: dict[str, np.ndarray] | None) -> None:
        self._description = description
        if weights is not None:
            check_range(description, weights)
        self._desk = desk
        self._backend = PreparedBackend(self._desk)
        self._generator = PrivateGenerator(self._backend, description, weights)

    @property
    def compilations(self) -> int:
        return self._desk.compilations

    def set_up(self) -> Traffic:
        """One-time work of a session that both prepares and answers.

        Raises:
            ValueError: as `set_up_answer`.
        """
        return self.set_up_preparing() + self.set_up_answer(products=False)

    def set_up_preparing(self) -> Traffic:
        """One-time work of a session that prepares: keys of products. It takes no oblivious transfers."""
        words = self._warm_words()
        self._desk.take_traffic()
        self._desk.program("set-up", lambda a, b: (a @ b) * a, [words, np.zeros((SET_UP_WIDTH, SET_UP_WIDTH), np.uint64)], whole=True)
        return self._desk.take_traffic()

    def set_up_answer(self, products: bool) -> Traffic:
        """One-time work of a session that answers: the first oblivious transfers of both rings, so that an answer's bytes are its own.

        Args:
            products: whether the engine multiplies in the answer (`multiplies_by_engine`), and needs keys for it.

        Raises:
            ValueError: if the parties named different networks: they would run different forms.
        """
        desk, words = self._desk, self._warm_words()
        self._agree_on_network()
        desk.take_traffic()
        if products:
            desk.program("set-up products", lambda a, b: a * b, [words, words], whole=True)
        (bits,) = desk.small("set-up", lambda x: x < 0, [words])
        desk.where(bits, words)
        desk.truncate(words)
        return desk.take_traffic()

    def place(self, prompt_tokens: Sequence[int] | None, prompt_length: int) -> None:
        """What looking the prompt up takes before anything is sent: buckets at both parties, and the client's placement.

        Raises:
            PlacementError: as `place_ids`.
        """
        dealt = prompt_buckets(prompt_length, self._description.shape)
        if dealt is not None:
            bucket_ids(dealt)
            if prompt_tokens is not None:
                kept_places(tuple(prompt_tokens), dealt)

    def _warm_words(self) -> Words:
        """Enough numbers for every thread of the engine to start."""
        return np.zeros((self._desk.engine.settings.set_up_rows, SET_UP_WIDTH), np.uint64)

    def _agree_on_network(self) -> None:
        network, link = self._desk.network, self._desk.link
        mine = np.array([0.0, 0.0] if network is None else [network.round_trip_seconds, network.bits_per_second])
        link.send(mine)
        theirs = link.receive(mine.shape, np.float64)
        if (theirs != mine).any():
            other = Network("the other party's", *theirs.tolist()) if theirs.any() else None
            raise ValueError(f"The parties take different networks to be between them, {network} and {other}: name the same one at both.")

    def prepare(
        self, prompt_tokens: int, new_tokens: int, count: int = 1, on_work: OnWork | None = None, draft: int = 0
    ) -> tuple[list[Material], Traffic]:
        """Material for `count` answers of up to `new_tokens` tokens to prompts of up to `prompt_tokens` tokens, and what making it moved.

        The length is rounded up to a bucket; any prompt of the same bucket can use the material. `on_work` is told how far the work is.

        Args:
            draft: how many tokens each pass after the first guesses beside its own; the material of a pass grows with its rows.

        Raises:
            ValueError: if they do not fit the context.
        """
        described = self._description
        bucket = bucket_length(prompt_tokens, described.shape.context)
        needs = answer_needs(described.parsed_architecture, described.shape, bucket, new_tokens, described.rewrites, draft)
        self._generator.install_head()
        names = {need.weight for each in needs for need in each if isinstance(need, ProjectNeed | LookUpNeed)}
        weights = None if self._desk.is_client else {name: self._backend.tensors[name].whole() for name in names}
        return Preparer(self._desk, weights, described.rewrites.encoded_bytes).prepare(needs, bucket, count, on_work, draft)

    def _tell_accepted(self, count: int | None) -> tuple[int, Traffic]:
        """The client tells the server how many tokens a pass brought, because the next one's place depends on it."""
        link = self._desk.link
        if count is None:
            count = int(link.receive((1,), np.uint8)[0])
        else:
            link.send(np.array([count], np.uint8))
        return count, self._desk.take_traffic()

    def _compare(self, material: Material) -> None:
        """Both parties say which material they are about to use; nothing of it is used before that."""
        link = self._desk.link
        mine = np.frombuffer(material.identity, np.uint64)
        link.send(mine)
        theirs = link.receive(mine.shape)
        # A handshake, not a part of the answer's first step, which would be counted with it.
        self._desk.take_traffic()
        if (theirs != mine).any():
            raise MaterialError("The two parties hold halves of different materials: nothing was used. Prepare again.")

    def generate(
        self,
        material: Material,
        prompt_tokens: Sequence[int] | None,
        prompt_length: int,
        new_tokens: int,
        reveal: RevealPolicy | None = None,
        on_step: OnStep | None = None,
        choose: Callable[[TokenAnswer], int] | None = None,
        guess: Guess | None = None,
    ) -> Iterator[TokenAnswer]:
        """Continue a prompt, as `PrivateGenerator.generate` does, using `material` up; what is left of it is overwritten at the end.

        Material prepared with a `draft` answers several tokens a pass where guesses are right: the same tokens as without, greedily
        chosen, and the server learns after each pass how many guesses were right.

        Args:
            guess: at the client, where they come from; a look-up in prompt and answer by default.

        Raises:
            ValueError: if the material was made for other lengths, and as `PrivateGenerator.generate`.
            MaterialError: if the material was used before, or the other party's half belongs to another one.
        """
        bucket = bucket_length(prompt_length, self._description.shape.context)
        if bucket != material.prompt_bucket or new_tokens > material.new_tokens:
            raise ValueError(
                f"This was prepared for prompts of {material.prompt_bucket} tokens (rounded up) and {material.new_tokens} new ones, "
                f"not for {bucket} and {new_tokens}: prepare for these lengths."
            )
        shape = self._description.shape
        guess = placed_guesses(guess or look_up, shape.vocabulary, shape.width)
        draft = Draft(material.draft, self._tell_accepted, guess) if material.draft else None
        self._compare(material)
        self._backend.forms.begin(material)
        try:
            yield from self._generator.generate(prompt_tokens, prompt_length, new_tokens, reveal, on_step, choose, draft)
        finally:
            self._backend.forms.end()
