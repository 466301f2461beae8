"""What each setting of the engine costs: bytes, messages and seconds of small runs between two processes, and errors of fixed point.

    python benchmarks/engine_settings.py [--json] [--write]

Every row changes one setting of the private program's own and runs the same small programs with it. Writes
results/engine-settings.json; --write also regenerates the table in docs/kernels.md. About two minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hushlm.calibration.both_parties import run_both
from hushlm.files import write_atomic
from hushlm.private.engine import Engine, EngineSettings, Party, engine_version
from hushlm.private.engine.traffic import Traffic
from hushlm.private.program.backend import EngineBackend
from hushlm.report.table import Column, Table
from sections import write_section

RESULTS = Path("results/engine-settings.json")
DOCUMENT = Path("docs/kernels.md")

ELEMENTS = 16_384
SIDE, INNER = 32, 256
WARM_ELEMENTS = 8192
"""Enough that every OT worker of four threads starts."""


@dataclass(frozen=True)
class Settings(EngineSettings):
    """The private program's settings, and the kind of oblivious transfer, by the engine's own name."""

    engine_transfers: str = "EMP_Ferret"

    def to_json(self) -> str:
        document = json.loads(super().to_json())
        if not self.simulate:
            document["cheetah_2pc_config"]["ot_kind"] = self.engine_transfers
        return json.dumps(document)


CHANGES: dict[str, dict[str, Any]] = {
    "the program's own": {},
    "transfers YACL_Ferret": {"engine_transfers": "YACL_Ferret"},
    "transfers YACL_Softspoken": {"engine_transfers": "YACL_Softspoken"},
    "no error in the last place": {"one_bit_error": False},
    "products not packed": {"pack_products": False},
    "1 squaring": {"exponential_squarings": 1},
    "6 squarings": {"exponential_squarings": 6},
    "16 fraction bits": {"fraction_bits": 16},
    "20 fraction bits": {"fraction_bits": 20},
    "1 thread": {"threads": 1},
    "4 threads": {"threads": 4},
}

PROGRAMS: dict[str, tuple[Callable[[Any], Callable[..., Any]], tuple[str, ...]]] = {
    "comparisons": (lambda xp: lambda x: xp.maximum(x, 0.5), ("x",)),
    "exponentials": (lambda xp: lambda x: xp.exp(-x), ("x",)),
    "product": (lambda xp: lambda left, right: left @ right, ("left", "right")),
}


def install(backend: EngineBackend, name: str, shape: tuple[int, ...], owner: Party | None) -> None:
    """A value of one party, or shared by both."""
    value = np.random.default_rng(0).uniform(0.1, 1.0, shape)
    known = {Party.CLIENT: backend.knows_client, Party.SERVER: backend.knows_server}
    if owner is not None:
        backend.put(name, owner, shape, value if known[owner] else None)
        return
    for one in Party:
        backend.put(f"{name}.{one.name}", one, shape, value / 2 if known[one] else None)
    backend.run("share", lambda xp: lambda a, b: a + b, (f"{name}.CLIENT", f"{name}.SERVER"), (name,), ())


def count(engine: Engine) -> dict[str, Traffic]:
    """Set-up, and the second run of every program; at this party."""
    backend = EngineBackend(engine)
    install(backend, "warm", (WARM_ELEMENTS,), None)
    install(backend, "x", (ELEMENTS,), None)
    install(backend, "left", (SIDE, INNER), None)
    install(backend, "right", (INNER, INNER), Party.SERVER)
    found = {"set-up": backend.run("set-up", lambda xp: lambda x: xp.maximum(x, 0.5), ("warm",), ("y",), ())}
    for name, (build, inputs) in PROGRAMS.items():
        runs = [backend.run(name, build, inputs, ("y",), ()) for _ in range(3)]
        found[name] = min(runs[1:], key=lambda traffic: traffic.total_bytes)
    return found


def inner_product_error(fraction_bits: int) -> float:
    """Largest error of products of 768 terms, of standard normal numbers and weights of deviation 0.02, in the engine's arithmetic."""
    random = np.random.default_rng(1)
    left, right = random.standard_normal((128, 768)), 0.02 * random.standard_normal((768, 256))
    backend = EngineBackend(Engine(Party.CLIENT, EngineSettings(fraction_bits=fraction_bits, simulate=True), None))
    backend.put("left", Party.CLIENT, left.shape, left)
    backend.put("right", Party.SERVER, right.shape, right)
    backend.run("product", lambda xp: lambda a, b: a @ b, ("left", "right"), ("y",), ())
    found = backend.reveal("y", Party.CLIENT)[0]
    assert found is not None
    return float(np.abs(found - left @ right).max())


def measure() -> dict[str, Any]:
    rows = []
    for name, change in CHANGES.items():
        settings = Settings(**{"exponential_squarings": 2} | change)
        client, server = run_both(count, (), settings)
        row: dict[str, Any] = {"setting": name}
        for program, traffic in client.items():
            row[program] = {
                "bytes": traffic.total_bytes,
                "messages": traffic.sent_messages + traffic.received_messages,
                "seconds": round(max(traffic.seconds, server[program].seconds), 3),
            }
        row["inner_product_error"] = inner_product_error(settings.fraction_bits)
        rows.append(row)
        print(f"{name}: {row}", flush=True)
    return {
        "engine": engine_version(),
        "comparisons": ELEMENTS,
        "exponentials": ELEMENTS,
        "product": [SIDE, INNER, INNER],
        "rows": rows,
    }


def markdown(found: dict[str, Any]) -> str:
    rows = []
    for row in found["rows"]:
        flat = {"setting": row["setting"], "error": row["inner_product_error"]}
        for program in ("set-up", *PROGRAMS):
            flat |= {f"{program} {what}": row[program][what] for what in ("bytes", "messages", "seconds")}
        rows.append(flat)
    columns = (
        Column("setting", "changed"),
        Column("set-up bytes", "set-up, MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("set-up messages", "messages", ",", "right"),
        Column("comparisons bytes", "comparisons, MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("exponentials bytes", "exponentials, MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("product bytes", "product, MB", lambda count: f"{count / 1e6:.2f}", "right"),
        Column("product seconds", "s", ".2f", "right"),
        Column("error", "error of a product of 768 terms", ".1e", "right"),
    )
    side, inner, outer = found["product"]
    text = (
        f"{found['engine']}; both directions, two processes. Set-up: the first {WARM_ELEMENTS:,} comparisons; then {ELEMENTS:,} "
        f"comparisons with selection, {ELEMENTS:,} exponentials of two squarings, and a product of {side} x {inner} with the server's "
        f"{inner} x {outer}."
    )
    return f"{text}\n\n{Table('', columns, rows).to_markdown()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="regenerate the table in docs/kernels.md")
    asked = parser.parse_args()
    found = measure()
    write_atomic(RESULTS, json.dumps(found, indent=1) + "\n")
    text = markdown(found)
    print(json.dumps(found, indent=1) if asked.json else text)
    if asked.write:
        write_section(DOCUMENT, "engine-settings", text)


if __name__ == "__main__":
    main()
