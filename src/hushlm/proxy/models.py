"""The models behind one proxy: each a private client of the server that has its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hushlm.private.client.client import Client
from hushlm.private.program.description import RevealPolicy
from hushlm.private.session.messages import printable
from hushlm.proxy.chat.chat_format import ChatFormat
from hushlm.proxy.errors import ApiError

__all__ = ["Models", "ServedModel", "check_name"]


@dataclass(frozen=True)
class ServedModel:
    """A model that requests may name.

    Attributes:
        name: its id, for requests and lists.
        client: asks its server.
        created: when it was exported, in Unix seconds.
        chat: its way with conversations; None refuses them.
    """

    name: str
    client: Client
    created: int = 0
    chat: ChatFormat | None = None

    def __post_init__(self) -> None:
        check_name(self.name)

    def document(self, reveal: RevealPolicy) -> dict[str, Any]:
        """OpenAI's description of it, and what OpenAI has no word for."""
        description = self.client.description
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "hushlm",
            "architecture": description.architecture,
            "context_length": description.shape.context,
            "fingerprint": description.fingerprint,
            "reveal": str(reveal),
        }


class Models:
    """Every model of a proxy, in the order in which they were given.

    Raises:
        ValueError: if there is none, or two have one name.
    """

    def __init__(self, served: Sequence[ServedModel]) -> None:
        if not served:
            raise ValueError("A proxy needs at least one model.")
        self.served = {model.name: model for model in served}
        if len(self.served) < len(served):
            raise ValueError("Two models of one proxy cannot have the same name: give each a --name of its own.")

    def get(self, name: str) -> ServedModel:
        """The model of a request.

        Raises:
            ApiError: 404, if there is none of that name.
        """
        if (found := self.served.get(name)) is not None:
            return found
        known = f"the only one is {next(iter(self.served))}" if len(self.served) == 1 else f"there are {', '.join(self.served)}"
        raise ApiError(404, f"There is no model {printable(name)!r} here: {known}.", "model_not_found", "model")

    @property
    def context(self) -> int:
        """The longest context, in tokens."""
        return max(model.client.description.shape.context for model in self.served.values())


def check_name(name: str) -> None:
    """Raises: ValueError, if it is no name for a model: it is a part of addresses, and of one line of output."""
    if not name or not name.isprintable() or "/" in name or " " in name:
        raise ValueError(f"A model's name has no spaces and no slashes, unlike {name!r}.")
