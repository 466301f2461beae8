"""How a client behaves: how long it waits for what, and how often it asks again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hushlm.cost.network import Network
from hushlm.private.client.retries import Retries
from hushlm.private.session.messages import ALIVE_SECONDS

__all__ = ["ClientSettings", "PreparedChoice"]

PreparedChoice = Literal["auto", "only", "never"]


@dataclass(frozen=True)
class ClientSettings:
    """Times in seconds, and retries.

    Attributes:
        connect_seconds: how long each connection to the server may take to open, and after them the engines' links.
        queue_seconds: how long to wait in the server's queue if all its workers are busy.
        start_seconds: how long the server's worker may take to load the weights.
        silent_seconds: how long the server's engine may be silent before the session is given up.
        alive_seconds: how long the server may be silent on the control connection, where it speaks every few seconds.
        retries: how often to ask again where no server is found, or one without a place.
        prepared: whether questions use prepared answers: "auto" where one fits, "only" or not at all, "never".
        prepared_folder: where prepared answers are stored; by default beside the keys.
        network: between client and server, as far as it is known: answers from prepared material then take the forms that are quickest over
            it, and every session the oblivious transfers. None takes the forms with the fewest bytes, and transfers for loopback
            if the server's address is one of this machine, and else for a wide-area one: name what lies behind a tunnel.
        draft_model: checkpoint that guesses tokens, for prepared answers that check guesses (`Client.prepare(draft=...)`); None looks
            them up in prompt and answer.

    Raises:
        ValueError: if a time is not above 0.
    """

    connect_seconds: float = 30.0
    queue_seconds: float = 3600.0
    start_seconds: float = 150.0
    silent_seconds: float = 120.0
    alive_seconds: float = 6 * ALIVE_SECONDS
    retries: Retries = Retries()
    prepared: PreparedChoice = "auto"
    prepared_folder: Path | None = None
    network: Network | None = None
    draft_model: Path | None = None

    def __post_init__(self) -> None:
        if min(self.connect_seconds, self.queue_seconds, self.start_seconds, self.silent_seconds, self.alive_seconds) <= 0:
            raise ValueError("A client's times must be above 0 seconds.")
