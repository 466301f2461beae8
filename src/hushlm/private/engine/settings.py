"""What both parties know of each other's engine before it is loaded: ranks, certificates, and settings that must agree."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EngineSettings", "Party", "TlsFiles"]


class Party(enum.IntEnum):
    """Rank of a party on the engine's link."""

    CLIENT = 0
    SERVER = 1

    @property
    def other(self) -> Party:
        return Party(1 - self)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one party for mutual TLS: its certificate, its private key, and the CA that signs both parties."""

    certificate: Path
    private_key: Path
    authority: Path


@dataclass(frozen=True)
class EngineSettings:
    """What both parties must agree on for shares to mean the same (compared in the handshake).

    Attributes:
        exponential_squarings: n of the built-in exponential (1 + z/2^n)^(2^n).
        fraction_bits: of fixed-point numbers in a ring of 64 bits.
        pack_products: pack matrix products into fewer ciphertexts: a twentieth of the bytes for about 1.6 times the server's CPU time.
        one_bit_error: allow an error of one unit in the last place after a product, for cheaper truncation.
        threads: of each party's engine; they decide how many stocks of oblivious transfers are set up.
        simulate: run the same programs in the clear, in one process, with the same fixed-point arithmetic.
    """

    exponential_squarings: int = 6
    fraction_bits: int = 18
    pack_products: bool = True
    one_bit_error: bool = True
    threads: int = 2
    simulate: bool = False

    def to_json(self) -> str:
        protocol: dict[str, Any] = {"protocol": "REF2K" if self.simulate else "CHEETAH"}
        if not self.simulate:
            protocol |= {
                "max_concurrency": self.threads,
                # Without this flag the engine ignores owners and one process would hold both shares.
                "experimental_enable_colocated_optimization": True,
                "enable_hal_profile": True,
                "enable_pphlo_profile": True,
                "cheetah_2pc_config": {
                    "ot_kind": "EMP_Ferret",
                    "enable_mul_lsb_error": self.one_bit_error,
                    "disable_matmul_pack": not self.pack_products,
                },
            }
        return json.dumps(
            protocol | {"field": "FM64", "fxp_fraction_bits": self.fraction_bits, "fxp_exp_iters": self.exponential_squarings}
        )
