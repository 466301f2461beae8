"""Write docs/cost.md: every figure on that page comes from here.

python benchmarks/cost_page.py
"""

from __future__ import annotations

import json
from pathlib import Path

from hushlm.architectures import parse
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN, price
from hushlm.cost.against import NOTE, against_paper
from hushlm.cost.constants import load_constants
from hushlm.cost.growth import growth_by_size, growth_by_tokens, growth_of_shapes
from hushlm.files import write_atomic
from hushlm.plan import decode_plan, prefill_plan
from hushlm.report.table import Column, Table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cost.md"
LATENCY = ROOT / "results" / "latency.json"
GPT2_SMALL = ModelShape(layers=12, heads=12, width=768, context=128, vocabulary=50_257)
NAMES = ("SM+LN+G", "SM+R", "SM2+R", "SM1+R", "SM+ScFuFFN", "SM2+ScFuFFN", "SM1+ScFuFFN")
GROWN = "SM2+ScFuFFN"


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f}"


def gigabytes(count: float) -> str:
    return f"{count / 1e9:,.2f}"


def section(title: str, text: str, table: Table | None = None) -> str:
    return f"## {title}\n\n{text}\n" + (f"\n{table.to_markdown()}" if table is not None else "")


def totals() -> str:
    rows = []
    for name in NAMES:
        first = price(prefill_plan(parse(name), GPT2_SMALL, 128))
        further = price(decode_plan(parse(name), GPT2_SMALL, 128))
        head = sum(step.amount.bytes for step in further.steps if step.step.name in ("head", "reveal"))
        rows.append(
            {
                "architecture": name,
                "bytes": first.total.bytes,
                "up": first.total.client_to_server_bytes,
                "down": first.total.server_to_client_bytes,
                "rounds": first.total.rounds,
                "cpu": first.total.cpu_seconds,
                "wan": first.total.seconds,
                "lan": price(prefill_plan(parse(name), GPT2_SMALL, 128), network=LAN).total.seconds,
                "further": further.total.bytes,
                "further_bare": further.total.bytes - head,
                "memory": first.server_peak_bytes,
            }
        )
    columns = (
        Column("architecture", "architecture"),
        Column("bytes", "GB", gigabytes, "right"),
        Column("up", "client to server", gigabytes, "right"),
        Column("down", "server to client", gigabytes, "right"),
        Column("rounds", "round trips", ",.0f", "right"),
        Column("cpu", "CPU s", ",.0f", "right"),
        Column("wan", "s over wan", ",.0f", "right"),
        Column("lan", "s over lan", ",.0f", "right"),
        Column("further", "further token, MB", megabytes, "right"),
        Column("further_bare", "of it without head and answer, MB", megabytes, "right"),
        Column("memory", "server GB", gigabytes, "right"),
    )
    text = "L=12, H=12, D=768, V=50,257, T=128, one token, embedding, head and arg max included; set-up (26 MB a session) not."
    return section("GPT-2 small", text, Table("", columns, rows))


def operations() -> str:
    kinds = ("embed", "normalise", "project", "scalerows", "scores", "kernel", "mix", "divide", "activate", "reveal")
    rows = []
    for name in NAMES:
        report = price(prefill_plan(parse(name), GPT2_SMALL, 128))
        rows.append({"architecture": name, **{kind: amount.bytes for kind, amount in report.by_operation.items()}})
    present = [kind for kind in kinds if any(kind in row for row in rows)]
    columns = (Column("architecture", "architecture"), *(Column(kind, kind, megabytes, "right") for kind in present))
    return section("Where the bytes go", "MB by kind of operation, the same pass.", Table("", columns, rows))


def paper() -> str:
    rows = [{**row, **{f"published_{key}": value for key, value in row["published"].items()}} for row in against_paper()]
    columns = (
        Column("table", "table"),
        Column("architecture", "architecture"),
        Column("layers", "L", align="right"),
        Column("context", "T", align="right"),
        Column("nonlinear_operations", "nonlinear operations", "; ".join),
        Column("published_ffn_gflops", "FFN GFLOP, published", ".1f", "right"),
        Column("ffn_gflops", "ours", ".2f", "right"),
        Column("published_attn_gflops", "attention GFLOP, published", ".1f", "right"),
        Column("attn_gflops", "ours", ".2f", "right"),
        Column("published_bytes", "GB, published", gigabytes, "right"),
        Column("bytes_as_published_forms", "GB, its forms on our engine", gigabytes, "right"),
        Column("bytes", "GB, Hush", gigabytes, "right"),
        Column("ratio", "Hush / published", ".2f", "right"),
    )
    return section("Beside the paper", NOTE, Table("", columns, rows))


def growth() -> str:
    architecture = parse(GROWN)
    sizes = Table(
        "",
        (
            Column("size", "size"),
            Column("value", "value", ",", "right"),
            Column("bytes", "MB", megabytes, "right"),
            Column("rounds", "round trips", ",.0f", "right"),
        ),
        growth_by_size(architecture, GPT2_SMALL),
    )
    answers = Table(
        "",
        (
            Column("new_tokens", "new tokens", ",", "right"),
            Column("bytes", "MB, keys and values kept", megabytes, "right"),
            Column("bytes_without_cache", "MB, a whole pass each", megabytes, "right"),
        ),
        growth_by_tokens(architecture, GPT2_SMALL, 96),
    )
    known = Table(
        "",
        (
            Column("shape", "shape"),
            Column("context", "T", ",", "right"),
            Column("bytes", "first token, GB", gigabytes, "right"),
            Column("further_token_bytes", "further token, MB", megabytes, "right"),
            Column("server_peak_bytes", "server GB", gigabytes, "right"),
        ),
        growth_of_shapes(architecture, (128, 512, 2048, 4096)),
    )
    text = f"{GROWN} from GPT-2 small's shape, one size changed at a time, one token from a full context."
    return "\n".join(
        (
            section("Growth", text, sizes),
            f"An answer to a prompt of 96 tokens.\n\n{answers.to_markdown()}",
            "Known shapes, on paper (nobody's memory is asked): one token, and a further one at the end of the context.",
            "\n" + known.to_markdown(),
        )
    )


def calibration() -> str:
    calibrated = load_constants()
    rows = [
        {"case": r.case, "counted": r.counted_bytes, "predicted": r.predicted_bytes, "relative": r.relative} for r in calibrated.residuals
    ]
    columns = (
        Column("case", "micro-run"),
        Column("counted", "counted bytes", ",.0f", "right"),
        Column("predicted", "predicted", ",.0f", "right"),
        Column("relative", "difference", "+.3%", "right"),
    )
    text = (
        f"Version {calibrated.version}, fitted to {len(rows)} micro-runs of {calibrated.engine} by `python benchmarks/calibrate.py` or "
        "`hushlm cost --calibrate`. What is not zero is the random content of ciphertexts."
    )
    return section("Constants and residuals", text, Table("", columns, rows))


def latency() -> str:
    if not LATENCY.exists():
        return section("Latency, measured", "Run `python benchmarks/latency.py`.")
    document = json.loads(LATENCY.read_text())
    columns = (
        Column("architecture", "architecture"),
        Column("network", "network"),
        Column("measured_round_trip_seconds", "measured RTT, ms", lambda seconds: f"{seconds * 1e3:.2f}", "right"),
        Column("measured_bits_per_second", "measured Mbps", lambda rate: f"{rate / 1e6:.0f}", "right"),
        Column("measured_seconds", "measured s", ".2f", "right"),
        Column("predicted_seconds", "predicted s", ".2f", "right"),
        Column("error", "difference", "+.0%", "right"),
        Column("local_seconds", "s with no network", ".2f", "right"),
        Column("predicted_on_local_seconds", "predicted from it", ".2f", "right"),
        Column("error_on_local", "difference", "+.0%", "right"),
        Column("load_average", "load", ".1f", "right"),
    )
    shape = document["shape"]
    text = (
        f"Whole private passes of two processes through a user-space relay (`python benchmarks/latency.py`), L={shape['layers']} "
        f"H={shape['heads']} D={shape['width']} T={shape['context']} V={shape['vocabulary']}, {document['cores']} cores. Round trips and "
        "wire come from the model. CPU seconds do too in `predicted`; `predicted from it` takes the time of the same pass with no "
        "network, measured just before, in their place: on a machine that others use (see the load) the fairer test of the network's part."
    )
    return section("Latency, measured", text, Table("", columns, document["rows"]))


HOW = f"""# The cost of private inference

Generated by `python benchmarks/cost_page.py`; do not edit. `hushlm cost ARCHITECTURE --layers --heads --width --context --vocab
[--network lan|wan|RTTms,Mbps] [--new-tokens N] [--json]` answers the same for any shape in under a second, without weights and
without the engine.

How it knows: a plan (`hushlm.plan`) lists the programs that a pass runs; `cost.protocol` writes each as calls of the engine's
primitives, and `cost.primitives` knows what a call moves from the engine's own rules: how a matrix product is tiled into ciphertexts
(`hushlm.tiling`), which side encrypts, how many slots an elementwise product fills, when products are drawn from a stock of triples and
what refilling it costs, how many oblivious transfers a comparison uses up. Only sizes of ciphertexts are fitted. The test suite
runs every distinct step of every architecture in the registry in two processes, at two shapes, in both ways of writing, and asks
that each single run's bytes be predicted within 0.2% and its messages exactly, refills included; the promise is 2%.

Bytes are payload of the engine's links, {load_constants().engine}, 1 GB = 10^9 bytes, both directions unless said otherwise,
in steady state: refills spread evenly, set-up apart. TCP framing adds about 3%. Seconds are round trips x RTT + bytes / bandwidth
+ CPU seconds of both parties, with {WAN} and {LAN}; CPU seconds were fitted on a busy two-core
machine and are the roughest figure here.

Not modelled: inter- and intra-operator parallelism of the engine, rings other than 64 bits, fraction bits other than 18 beyond the
truncation's bytes, TLS and TCP overhead, the overlap of both directions on the wire, compilation.
"""


def main() -> None:
    parts = (HOW, totals(), operations(), paper(), growth(), latency(), calibration())
    write_atomic(PAGE, "\n".join(part.rstrip("\n") + "\n" for part in parts))
    print(PAGE)


if __name__ == "__main__":
    main()
