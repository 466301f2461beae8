"""A client without an engine: requests written out, so that a session can be opened, kept waiting and left without a computation."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from hushlm.private.engine import engine_version
from hushlm.private.keys.certificates import client_context, create_session_certificate, load_keys
from hushlm.private.program.description import PROTOCOL_VERSION, load_description
from hushlm.private.session.messages import shape_of


def valid_request(export: Path, scratch: Path) -> dict[str, Any]:
    """Of one token, for an engine that never comes; a folder below `scratch` takes a session certificate's files."""
    description = load_description(export / "client")
    folder = Path(tempfile.mkdtemp(prefix="by-hand-", dir=scratch))
    return {
        "protocol_version": PROTOCOL_VERSION,
        "engine_version": engine_version(),
        "architecture": description.architecture,
        "shape": shape_of(description.shape),
        "fingerprint": description.fingerprint,
        "prompt_length": 3,
        "new_tokens": 1,
        "reveal": {"kind": "token", "top": 1},
        "engine_certificate": create_session_certificate(folder).text,
        "kind": "ask",
        "answers": 0,
        "bundle": None,
        "held": None,
        "draft": 0,
        "network": None,
        "near": True,
    }


@dataclass
class HandMade:
    """One client of one server.

    Attributes:
        http: with this client's certificate.
        address: HOST:PORT of the server.
        request: what it asks for.
    """

    http: httpx.Client
    address: str
    request: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str) -> httpx.Response:
        return self.http.get(f"https://{self.address}{path}")

    def refused(self, **changes: Any) -> httpx.Response:
        """The answer to a request that is not accepted."""
        response = self.http.post(f"https://{self.address}/sessions", content=json.dumps(self.request | changes))
        assert response.status_code >= 400, response.text
        return response

    @contextlib.contextmanager
    def session(self, **changes: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """An open session's events but `alive`; it is left at the end of the block."""
        with self.http.stream("POST", f"https://{self.address}/sessions", content=json.dumps(self.request | changes)) as response:
            assert response.status_code == 200, response.read()
            yield (event for line in response.iter_lines() if (event := json.loads(line))["event"] != "alive")


@contextlib.contextmanager
def hand_made(address: str, export: Path, keys: Path, scratch: Path, name: str = "client") -> Iterator[HandMade]:
    """A client called `name`, whose keys lie in `keys`."""
    with httpx.Client(verify=client_context(load_keys(keys, name)), trust_env=False, timeout=60) as http:
        yield HandMade(http, address, valid_request(export, scratch))
