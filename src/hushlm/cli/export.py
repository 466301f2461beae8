"""`hushlm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def export(
    checkpoint: Path,
    output: Path,
    fraction_bits: int = 18,
    profile: Literal["wan", "lan"] = "wan",
    encoded_gb: float = 2.0,
    json: bool = False,
) -> None:
    """Turn a checkpoint into a private program: server/ (weights, private) and client/ (tokenizer, no weights).

    Scale, temperature, LayerNorm's affine part, alpha and beta are folded into the weights, and linear FFNs disappear into a
    moving basis of the residual stream; which ones is decided by the measured fixed-point error, and printed.

    Args:
        checkpoint: folder written by `hushlm train`.
        output: folder for server/ and client/.
        fraction_bits: of fixed-point numbers in the engine's 64-bit ring, 12 to 24.
        profile: wan moves the fewest bytes; lan packs no ciphertexts and multiplies rows by numbers one by one, for less CPU time and
            many times the bytes.
        encoded_gb: memory of the server for the encoded weights of one product, in GB; the server needs about twice that and the
            weights. More of it leaves large products whole, which saves much of its CPU time.
        json: print one JSON document instead of sentences.
    """
    from dataclasses import replace

    from hushlm.plan import HUSH
    from hushlm.private.program.export_model import export_model
    from hushlm.report.table import print_json
    from hushlm.training.checkpoint import load_checkpoint

    if not 12 <= fraction_bits <= 24:
        raise ValueError(f"{fraction_bits} fraction bits leave no room in a 64-bit ring: choose 12 to 24.")
    if not 0.1 <= encoded_gb <= 1000:
        raise ValueError(f"{encoded_gb} GB for encoded weights is out of reach: choose 0.1 to 1000.")
    rewrites = replace(HUSH, encoded_bytes=encoded_gb * 1e9, row_products="matrices" if profile == "wan" else "numbers")
    loaded = load_checkpoint(checkpoint)
    report = export_model(loaded, output, fraction_bits=fraction_bits, pack_products=profile == "wan", rewrites=rewrites)
    if json:
        print_json(report.to_dict())
        return
    print(f"Exported {checkpoint} to {output}: server/ ({report.server_bytes / 1e6:.1f} MB of weights) and client/ (no weights).")
    if report.absorbed_ffns:
        layers = ", ".join(map(str, report.absorbed_ffns))
        print(f"FFNs absorbed in layers {layers}; largest condition number of the moving basis {report.condition_number:.3g}.")
    if report.explicit_ffns:
        print(f"FFNs kept as explicit products in layers {', '.join(map(str, report.explicit_ffns))}, for the error's sake.")
    print(f"Rounding to {fraction_bits} fraction bits moves a logit by at most {report.rounding_error:.2g} standard deviations.")
    print(f"Program fingerprint {report.fingerprint}")
