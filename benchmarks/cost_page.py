"""Write docs/cost.md and its figures: every number on that page comes from here.

python benchmarks/cost_page.py
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

from hushlm.architectures import parse
from hushlm.cost import LAN, WAN, price
from hushlm.cost.against import NOTE, against_paper
from hushlm.cost.budget import SearchSpace, every_architecture
from hushlm.cost.constants import load_constants
from hushlm.cost.growth import LONGEST
from hushlm.cost.measured import read_results
from hushlm.cost.prepared import ANSWERS, price_prepared
from hushlm.cost.prepared.online_constants import load_online_constants
from hushlm.cost.records import RECORDS_NOTE, records
from hushlm.files import write_atomic
from hushlm.plan import ModelPart, ProtocolSettings, StepName, decode_plan, prefill_plan
from hushlm.report.budget_report import FrontierReport
from hushlm.report.cost_tables import against_table, gigabytes, latency_table, residuals_table
from hushlm.report.growth_report import GrowthReport
from hushlm.report.prepared_report import checked_rows, checked_table, records_table
from hushlm.report.table import Column, Table
from hushlm.shapes import GPT2_SMALL
from prepared import table as counted_table

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "cost.md"
FIGURES = ROOT / "docs" / "figures"
LATENCY = ROOT / "results" / "latency.json"
PREPARED = ROOT / "results" / "prepared.json"
SESSION = ROOT / "results" / "session-bytes.json"
KERNELS = Path("results") / "kernels-micro.json"
"""Relative, for the page names it: see `main`."""
NAMES = ("SM+LN+G", "SM+R", "SM2+R", "SM1+R", "SM+ScFuFFN", "SM2+ScFuFFN", "SM1+ScFuFFN")
FFNS = {"R": "max(0, u)", "Q": "u^2", "B": "u g", "R2": "max(0, u)^2", "P": "ReLU with a quadratic joint", "G": "GELU"}
GROWN = "SM2+ScFuFFN"
BUDGETS = (500_000_000, 2_000_000_000)
AT_LEAST = 100_000_000
SPACE = SearchSpace(every_architecture(), (2, 4, 6, 8, 12, 16, 24), (64, 128, 256, 384, 512, 768, 1024), (1, 2, 4, 8, 12, 16))


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.1f}"


def token_megabytes(counts: list[float]) -> str:
    return ", ".join(f"{count / 1e6:.2f}" for count in counts)


def listed(counts: list[int]) -> str:
    return ", ".join(map(str, counts))


def section(title: str, text: str, table: Table | None = None) -> str:
    return f"## {title}\n\n{text}\n" + (f"\n{table.to_markdown()}" if table is not None else "")


def figure(name: str, text: str) -> str:
    return f"![{text}](figures/{name})\n"


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
    text = (
        "L=12, H=12, D=768, V=50,257, T=128, one token, embedding, head and arg max included; set-up not: 26 MB a session are predicted "
        "for it, and about 4 MB more are counted, because a session's set-up includes a warm-up program."
    )
    return section("GPT-2 small", text, Table("", columns, rows))


def operations() -> str:
    reports = {name: price(prefill_plan(parse(name), GPT2_SMALL, 128)) for name in NAMES}
    kinds = dict.fromkeys(kind for report in reports.values() for kind in report.by_operation)
    rows = [
        {"architecture": name, **{kind: amount.bytes for kind, amount in report.by_operation.items()}} for name, report in reports.items()
    ]
    columns = (Column("architecture", "architecture"), *(Column(kind, kind, megabytes, "right") for kind in kinds))
    return section("Where the bytes go", "MB by kind of operation, the same pass.", Table("", columns, rows))


def feed_forwards() -> str:
    rows = []
    for letter, formula in FFNS.items():
        report = price(prefill_plan(parse(f"SM2+{letter}"), GPT2_SMALL, 128))
        first = [step for step in report.steps if step.step.layer == 0]
        (activation,) = (step.amount for step in first if step.step.name is StepName.FFN_ACTIVATION)
        elements = 128 * GPT2_SMALL.ffn_width
        rows.append(
            {
                "architecture": f"SM2+{letter}",
                "formula": formula,
                "activation": activation.bytes / elements,
                "whole": sum(step.amount.bytes for step in first if step.step.name.part is ModelPart.FEED_FORWARD) / elements,
                "rounds": activation.rounds,
                "bytes": report.total.bytes,
                "cpu": report.total.cpu_seconds,
            }
        )
    columns = (
        Column("architecture", "architecture"),
        Column("formula", "activation"),
        Column("activation", "B an element", ".1f", "right"),
        Column("whole", "B an element, both products included", ".1f", "right"),
        Column("rounds", "round trips of an activation", ".1f", "right"),
        Column("bytes", "GB", gigabytes, "right"),
        Column("cpu", "CPU s", ",.0f", "right"),
    )
    text = (
        "The same pass by kind of FFN: bytes of the activation for each of a layer's 128 x 3072 entries, u = W_in n + b, g = W_gate n + b. "
        "R2, P, Q and B are trained as they are served, G is served as a quartic in |u|. B has 1.5 times the parameters of the others."
    )
    return section("FFNs", text, Table("", columns, rows))


def paper() -> str:
    return section("Beside the paper", NOTE, against_table(against_paper()))


def frontier() -> str:
    report = FrontierReport.make(SPACE, BUDGETS, AT_LEAST, read_results(KERNELS), WAN, ProtocolSettings())
    report.write_figures(FIGURES)
    text = (
        f"`hushlm cost frontier --budget 500MB,2GB --parameters 100M --results results/kernels-micro.json`: {len(report.candidates):,} "
        f"models (every kernel, FFN and normalisation with a meaning together, in {len(SPACE.shapes())} shapes), one private token after "
        f"{SPACE.context} tokens, V={SPACE.vocabulary:,}, seconds over {WAN}. Of each kind (everything but the kernel) the best. "
        "Parameters are counted as trained: linear FFNs are, although the private program absorbs them. Size stands in for quality "
        "here, which a model without nonlinearities, or with the single head that is cheapest, may not live up to (--heads and "
        "--architectures narrow the search); where somebody has measured, look at perplexity instead."
    )
    parts = [section("What a budget buys", text)]
    parts += [f"{table.title}.\n\n{table.to_markdown()}" for table in report.tables()]
    parts.append(figure("frontier.png", "Parameters and FLOPs against bytes, the largest of each kind joined"))
    parts.append(figure("perplexity.png", "Measured perplexity against predicted bytes, with the Pareto front"))
    return "\n".join(parts)


def growth() -> str:
    report = GrowthReport.make(parse(GROWN), GPT2_SMALL, WAN)
    report.write(FIGURES)
    sizes, small, large, known = report.tables()
    return "\n".join(
        (
            section("Growth", f"{GROWN} from GPT-2 small's shape, one size changed at a time, one token from a full context.", sizes),
            figure("growth-sizes.png", "Bytes of one token against each size of the model"),
            f"An answer to a prompt of {report.prompt} tokens, up to {LONGEST:,} tokens together: GPT-2 small's shape, then 7B's.\n",
            small.to_markdown(),
            large.to_markdown(),
            figure("growth-answers.png", "Bytes of an answer against its tokens, with the private key-value cache and without"),
            "Known shapes, on paper (nobody's memory is asked): one token, and a further one at the end of the context.\n",
            known.to_markdown(),
            figure("growth-contexts.png", "Bytes of a first and of a further token against the context, five shapes"),
        )
    )


def calibration() -> str:
    calibrated = load_constants()
    rows = [asdict(residual) | {"relative": residual.relative} for residual in calibrated.residuals if residual.counted_bytes]
    text = (
        f"Version {calibrated.version}, fitted to {len(rows)} micro-runs of {calibrated.engine} by `python benchmarks/calibrate.py` or "
        "`hushlm cost --calibrate`. What is not zero in bytes is the random content of ciphertexts. Milliseconds are those that passed "
        "on loopback; they scatter with what else the machine does."
    )
    return section("Constants and residuals", text, residuals_table("", rows))


def latency() -> str:
    if not LATENCY.exists():
        return section("Latency, measured", "Run `python benchmarks/latency.py`.")
    document = json.loads(LATENCY.read_text())
    shape = document["shape"]
    text = (
        f"Whole private passes of two processes through a user-space relay (`python benchmarks/latency.py`), L={shape['layers']} "
        f"H={shape['heads']} D={shape['width']} T={shape['context']} V={shape['vocabulary']}, {document['cores']} cores, median of "
        f"{document['passes']}. `predicted s` is the model's alone, at the measured round trip and throughput. The same pass with no "
        "network, measured just before, stands beside what the model says of it, and last what the model predicts when that measured "
        "time takes its place: on a machine that others use (see the load) the fairer test of the network's part."
    )
    return section("Latency, measured", text, latency_table("", document["rows"]))


def session() -> str:
    if not SESSION.exists():
        return section("A session, counted", "Run `python benchmarks/session_bytes.py`.")
    document = json.loads(SESSION.read_text())
    shape, counted = document["shape"], document["rows"]
    questions: dict[tuple[str, int], list[dict]] = {(row["architecture"], row["question"]): [] for row in counted}
    for row in counted:
        questions[row["architecture"], row["question"]].append(row)
    rows = [
        {
            "architecture": architecture,
            "question": question,
            **{name: [row[f"{name}_bytes"] for row in tokens] for name in ("counted", "followed", "priced")},
            "batches": [row["triple_batches"] for row in tokens],
            "refills": [row["refills"] for row in tokens],
            "ratio": sum(row["counted_bytes"] for row in tokens) / sum(row["priced_bytes"] for row in tokens),
        }
        for (architecture, question), tokens in questions.items()
        if question <= 2 or any(row["refills"] for row in tokens)
    ]
    columns = (
        Column("architecture", "architecture"),
        Column("question", "question", "d", "right"),
        Column("counted", "counted, MB of each token", token_megabytes, "right"),
        Column("followed", "from the stocks", token_megabytes, "right"),
        Column("priced", "price", token_megabytes, "right"),
        Column("batches", "triple batches", listed, "right"),
        Column("refills", "refills", listed, "right"),
        Column("ratio", "counted / price of the answer", ".3f", "right"),
    )
    off = max(abs(row["followed_bytes"] / row["counted_bytes"] - 1) for row in counted)
    ratios = [row["counted_bytes"] / row["priced_bytes"] for row in counted]
    answers = [sum(r["counted_bytes"] for r in tokens) / sum(r["priced_bytes"] for r in tokens) for tokens in questions.values()]
    text = (
        f"One session of two processes for each architecture (`python benchmarks/session_bytes.py`), L={shape['layers']} "
        f"H={shape['heads']} D={shape['width']} T={shape['context']} V={shape['vocabulary']}: {max(q for _, q in questions)} questions "
        f"of {document['prompt_tokens']} tokens, each answered by {document['new_tokens']}. The table has the first two questions, and "
        "those in which a refill falls due. "
        f"A batch of {document['triples_in_a_batch']:,} triples moves {document['triple_batch_bytes'] / 1e6:.2f} MB, and a "
        f"refill of {document['transfers_in_a_refill']:,} oblivious transfers {document['refill_bytes'] / 1e6:.2f} MB. A "
        "token pays for whole ones or for none, which `hushlm.cost.stocks` follows call by call from the end of set-up on. What it says "
        f"of a token differs by at most {100 * off:.2f}% from what was counted. Against the price, single tokens moved "
        f"{min(ratios):.2f} to {max(ratios):.2f} times as much, and whole answers {min(answers):.3f} to {max(answers):.3f} times."
    )
    return section("A session, counted", text, Table("", columns, rows))


def prepared() -> str:
    parts, kinds, rows = [], {}, []
    for name in NAMES:
        lan, wan = (price_prepared(parse(name), GPT2_SMALL, 127, 2, network=network) for network in (LAN, WAN))
        first, further = lan.passes[0].total, lan.passes[1].total
        kinds[name] = {kind: amount.bytes for kind, amount in lan.offline_by_kind.items()}
        rows.append(
            {
                "architecture": name,
                "offline": lan.offline.bytes,
                "offline_cpu": lan.offline.cpu_seconds,
                "offline_lan": lan.offline.seconds,
                "kept": lan.kept_client_bytes,
                "bytes": first.bytes,
                "rounds": first.rounds,
                "cpu": first.cpu_seconds,
                "lan": first.seconds,
                "wan": wan.passes[0].total.seconds,
                "further": further.bytes,
                "further_cpu": further.cpu_seconds,
                "further_lan": further.seconds,
                "further_wan": wan.passes[1].total.seconds,
            }
        )
    columns = (
        Column("architecture", "architecture"),
        Column("offline", "offline MB", megabytes, "right"),
        Column("offline_cpu", "CPU s", ",.0f", "right"),
        Column("offline_lan", "s over lan", ",.0f", "right"),
        Column("kept", "MB kept at the client", megabytes, "right"),
        Column("bytes", "first token, MB", megabytes, "right"),
        Column("rounds", "round trips", ",.0f", "right"),
        Column("cpu", "CPU s", ",.1f", "right"),
        Column("lan", "s over lan", ",.1f", "right"),
        Column("wan", "s over wan", ",.0f", "right"),
        Column("further", "further token, MB", megabytes, "right"),
        Column("further_cpu", "CPU s", ",.1f", "right"),
        Column("further_lan", "s over lan", ",.1f", "right"),
        Column("further_wan", "s over wan", ",.0f", "right"),
    )
    calibrated = load_online_constants()
    text = (
        "The same model, answering from material that both parties made before there was a prompt (`hushlm prepare`), as `hushlm cost` "
        f"prices it: a prompt of 127 tokens and two new ones, {ANSWERS} answers prepared together, of which each pays its share. "
        "Offline products are the engine's own, so that the constants of today's products hold. Online, what is opened follows from the "
        "plan; truncations and selections are the engine's in 64 bits and comparisons in 32. The test suite prepares and answers with "
        "every design of the registry at two shapes, in two processes, and asks for bytes to 0.2%, messages exactly, and what is kept to "
        "the byte, whole refills of oblivious transfers told apart. Round trips are those of `hushlm.cost.calls`, "
        "with the largest found in pairs, as without a named network; seconds of online calls were fitted by "
        f"`python benchmarks/calibrate.py --prepared` ({calibrated.machine}, {calibrated.measured}), on a machine with nothing "
        "else to do; a first answer compiles its programs besides, about "
        f"{calibrated.values.compile_seconds:.2f} CPU seconds each and more where they are long, which is not in the table."
    )
    parts.append(section("Prepared answers", text, Table("", columns, rows)))
    named = list(dict.fromkeys(kind for each in kinds.values() for kind in each if kind != "identity"))
    by_kind = Table(
        "",
        (Column("architecture", "architecture"), *(Column(kind, kind, megabytes, "right") for kind in named)),
        [{"architecture": name, **each} for name, each in kinds.items()],
    )
    parts.append(f"Offline MB by what is multiplied.\n\n{by_kind.to_markdown()}")
    residuals = [asdict(each) | {"relative": each.relative} for each in calibrated.residuals]
    parts.append(
        "Micro-runs that the online constants were fitted to; milliseconds are CPU time of both parties, the quickest of several "
        f"runs.\n\n{residuals_table('', residuals).to_markdown()}"
    )
    return "\n".join(parts)


def whole_runs() -> str:
    """What `benchmarks/prepared.py` counted; the part between the marks is drawn again by it."""
    counted = json.loads(PREPARED.read_text())["rows"]
    text = (
        "Two processes on two cores, networks emulated by a relay on the same machine, random weights of trained size, 127 tokens of "
        "prompt, material of two answers made together (its figures are an answer's), the tokens those of the float64 reference. "
        '`results/prepared.json` has the command of every row and the machine\'s load; answers are "cold" where no answer before them '
        "compiled programs. Rows of format 2 are of before prompts were looked up in buckets."
    )
    checked = (
        "Counted and predicted, for those of today's format. CPU seconds are of both parties, predicted for the processor that the "
        "constants were fitted on, without compiling."
    )
    table = f"<!-- prepared: begin -->\n{counted_table(counted)}<!-- prepared: end -->"
    return f"## Whole runs of prepared answers\n\n{text}\n\n{table}\n\n{checked}\n\n{checked_table(checked_rows(counted)).to_markdown()}\n"


def record_rows() -> str:
    rows = [record.to_dict() for record in records()]
    return section("Records of the field", RECORDS_NOTE, records_table(rows))


HOW = f"""# The cost of private inference

Generated by `python benchmarks/cost_page.py`; do not edit. `hushlm cost ARCHITECTURE --layers --heads --width --context --vocab
[--network lan|wan|RTTms,Mbps] [--new-tokens N] [--json]` answers the same for any shape in under a second, without weights and
without the engine; `hushlm cost frontier --budget 2GB` searches architectures and shapes.

How it knows: a plan (`hushlm.plan`) lists the programs that a pass runs; `cost.operation_prices` writes each as calls of the engine's
primitives, and `cost.primitives` knows what a call moves from the engine's own rules: how a matrix product is tiled into ciphertexts
(`hushlm.plan.engine_tiles`), which side encrypts, how many slots an elementwise product fills, when products are drawn from a stock of
triples and what refilling it costs, how many oblivious transfers a comparison uses up. Only sizes of ciphertexts are fitted. The test suite
runs every distinct step of every architecture in the registry in two processes, at two shapes, in both ways of writing, and asks
that each single run's bytes be predicted within 0.2% and its messages exactly, refills included; the promise is 2%.
Both are about steps; set-up is predicted within 0.5%.

Oblivious transfers come from stocks in what follows (Ferret). A session whose answer is short, on a local network, asks for them call by
call instead ([which, when](kernels.md#which-oblivious-transfers)); `hushlm cost` and what a client estimates follow that choice.

Lengths are priced as a session runs them: the prompt, and then the prompt with every further token, is rounded up to a multiple of 32
tokens, at most the context (`hushlm.plan.bucket_length`). `hushlm cost FOLDER` reads architecture, shape and program from a checkpoint
or an export.

A price is a steady state: triples are made in batches, oblivious transfers are refilled ten million at a time, and a price spreads both
evenly over the calls that use them up. What single tokens of a real session move stands under "A session, counted".

Bytes are payload of the engine's links, {load_constants().engine}, 1 GB = 10^9 bytes, both directions unless said otherwise,
in steady state: refills spread evenly, set-up apart. TCP framing adds about 3%. Seconds are round trips x RTT + bytes / bandwidth
+ computing, with {WAN} and {LAN}. Computing is fitted twice, to the CPU seconds of both parties and to the
seconds that pass on {load_constants().cores} cores with no network between them: of primitives by size, of messages, and of the lines of a
program, which the engine reads anew at every run. It is the roughest figure here.

Not modelled: inter- and intra-operator parallelism of the engine, rings other than 64 bits (and 32, in which prepared answers compare),
fraction bits other than 18 beyond the truncation's bytes, TLS and TCP overhead, the overlap of both directions on the wire, compilation.
"""


def main() -> None:
    os.chdir(ROOT)
    parts = (
        HOW,
        totals(),
        operations(),
        feed_forwards(),
        prepared(),
        whole_runs(),
        paper(),
        record_rows(),
        frontier(),
        growth(),
        session(),
        latency(),
        calibration(),
    )
    write_atomic(PAGE, "\n".join(part.rstrip("\n") + "\n" for part in parts))
    print(PAGE)


if __name__ == "__main__":
    main()
