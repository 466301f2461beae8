"""What can be said about an engine before it is loaded: which party it is, its certificates, and settings that must agree."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hushlm.plan import ProtocolSettings
from hushlm.plan.protocol_settings import Transfers

__all__ = ["EngineSettings", "Party", "TlsFiles"]


ENGINE_TRANSFERS: dict[Transfers, str] = {"ferret": "EMP_Ferret", "softspoken": "YACL_Softspoken"}
"""The engine's own names of the two kinds of oblivious transfers."""


class Party(enum.IntEnum):
    """The two parties; the number is a party's rank on the engine's link."""

    CLIENT = 0
    SERVER = 1

    @property
    def other(self) -> Party:
        """The other one of the two parties."""
        return Party(1 - self)


@dataclass(frozen=True)
class TlsFiles:
    """The PEM files of one party for mutual TLS: its certificate, its private key, and the authority that signed both certificates."""

    certificate: Path
    private_key: Path
    authority: Path


@dataclass(frozen=True)
class EngineSettings(ProtocolSettings):
    """The settings of the protocol, in the form in which the engine reads them."""

    def to_json(self) -> str:
        """The engine's own configuration, as a JSON document."""
        protocol: dict[str, Any] = {"protocol": "REF2K" if self.simulate else "CHEETAH"}
        if not self.simulate:
            protocol |= {
                "max_concurrency": self.threads,
                # Without this flag the engine ignores owners, and one process would hold both shares.
                "experimental_enable_colocated_optimization": True,
                "enable_hal_profile": True,
                "enable_pphlo_profile": True,
                "cheetah_2pc_config": {
                    "ot_kind": ENGINE_TRANSFERS[self.transfers],
                    "enable_mul_lsb_error": self.one_bit_error,
                    "disable_matmul_pack": not self.pack_products,
                },
            }
        return json.dumps(
            protocol | {"field": "FM64", "fxp_fraction_bits": self.fraction_bits, "fxp_exp_iters": self.exponential_squarings}
        )
