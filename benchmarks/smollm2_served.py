"""SmolLM2-135M-Instruct asked privately, as a program would ask it: `hushlm serve`, `prepare` and `proxy`, and OpenAI's client.

    python benchmarks/smollm2_private.py --folder runs/smollm2            # first: the import, the export
    python benchmarks/smollm2_served.py --folder runs/smollm2 --write     # results/smollm2-served.json, and the table of docs/smollm2.md

Both parties run on this machine, with all its cores for both. The answer is compared with what the same fixed-point program says in the
clear (`SimulatedModel`) to the same tokens. Bytes are the engines' own count, CPU seconds those of a party's processes from the question to
the end of the session, memory the largest sum of what a party's processes held at a time, looked at every half second.
--write keeps the rows of other lengths and ways.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import openai
import psutil

from hushlm.files import write_atomic
from hushlm.plan import bucket_length
from hushlm.private.client.local_answers import SimulatedModel
from hushlm.private.keys.certificates import create_keys
from hushlm.private.program.description import load_description
from hushlm.proxy.chat.chat_format import chat_format
from hushlm.proxy.chat.template import Turn
from load import READY
from sections import write_section

RESULTS, DOCUMENT = Path("results/smollm2-served.json"), Path("docs/smollm2.md")
SYSTEM, QUESTION = "Answer briefly.", "What is the capital of France?"
FINISHED = re.compile(r"finished after ([\d.]+) s, ([\d.]+) MB")
SILENT_SECONDS = "1800"
"""How long the other side may compute in silence: a prompt's products take minutes where nothing is prepared."""


@dataclass(frozen=True)
class Row:
    """One way to one answer. Seconds are wall seconds; of a way with material, `prepare_` is what was done before the question."""

    way: str
    system: str
    question: str
    prompt_tokens: int
    padded_tokens: int
    answer_tokens: int
    bytes: int
    seconds: float
    first_token_seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    server_peak_bytes: int
    client_peak_bytes: int
    equals_simulated: bool
    text: str
    load_average_before: float
    prepare_bytes: float = 0.0
    prepare_seconds: float = 0.0
    prepare_cpu_seconds: float = 0.0


class Watch:
    """CPU seconds and memory of a process with its children, while the block runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._over = psutil.Process(process.pid), threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes, self.cpu_seconds = 0, 0.0

    def __enter__(self) -> Watch:
        self._before = self._cpu()
        self._looking.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        while self._process.children():  # what a worker took is known when it has ended
            time.sleep(0.1)
        self._over.set()
        self._looking.join()
        self.cpu_seconds = self._cpu() - self._before

    def _cpu(self) -> float:
        return sum(self._process.cpu_times()[:4])

    def _look(self) -> None:
        while not self._over.wait(0.5):
            held = 0
            for process in (self._process, *self._process.children(recursive=True)):
                try:
                    held += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_bytes = max(self.peak_bytes, held)


@contextmanager
def running(log: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A command of hushlm that prints one line when it is ready. Yields: it, and its address."""
    with log.open("w") as errors:
        command = [sys.executable, "-m", "hushlm", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        ready = READY.search(process.stdout.readline())
        if ready is None:
            raise SystemExit(f"hushlm {words[0]} did not start: {log.read_text()}")
        yield process, ready[1]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def prepare(
    export: Path, keys: Path, address: str, padded: int, tokens: int, server: subprocess.Popen[str], answers: int = 1
) -> dict[str, float]:
    """`hushlm prepare` for some answers. Returns: what it cost both sides, as a row has it."""
    command = [sys.executable, "-m", "hushlm", "prepare", str(export / "client"), "--keys", str(keys), "--server", address]
    lengths = ["--answers", str(answers), "--prompt-tokens", str(padded), "--tokens-each", str(tokens)]
    before = sum(os.times()[2:4])
    with Watch(server) as watch:
        done = subprocess.run(
            [*command, *lengths, "--silent-seconds", SILENT_SECONDS, "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(done.stdout)
    return {
        "prepare_bytes": found["bytes_client_to_server"] + found["bytes_server_to_client"],
        "prepare_seconds": found["seconds"],
        "prepare_cpu_seconds": round(watch.cpu_seconds + sum(os.times()[2:4]) - before, 1),
    }


def chat(client: openai.OpenAI, turns: Sequence[Turn], tokens: int) -> tuple[str, float]:
    """The answer as it streams. Returns: its text, and the seconds until its first word."""
    start, first, text = time.perf_counter(), 0.0, ""
    messages: Any = turns
    stream = client.chat.completions.create(model="smollm2", messages=messages, max_tokens=tokens, stream=True)
    for chunk in stream:
        piece = chunk.choices[0].delta.content if chunk.choices else None
        if piece:
            first = first or time.perf_counter() - start
            text += piece
    return text, first


def measure(way: str, export: Path, turns: Sequence[Turn], tokens: int, wanted: str, count: int, context: int) -> Row:
    """One answer, from fresh keys on."""
    padded = bucket_length(count, context)
    with tempfile.TemporaryDirectory(prefix="hushlm-smollm2-") as temporary:
        keys, logs = Path(temporary) / "keys", Path(temporary)
        create_keys(keys, ["127.0.0.1"])
        times = ["--silent-seconds", SILENT_SECONDS, "--connect-seconds", "600"]
        stored = ["--prepare-folder", str(logs / "stored")]
        serve = ["serve", str(export / "server"), "--keys", str(keys), "--listen", "127.0.0.1:0", *stored, *times]
        with running(logs / "serve.log", *serve) as (server, address):
            prepared = prepare(export, keys, address, padded, tokens, server) if way == "prepared" else {}
            ask = ["proxy", "--model", str(export / "client"), "--name", "smollm2", "--keys", str(keys), "--server", address]
            ask += ["--listen", "127.0.0.1:0", "--prepared", "only" if way == "prepared" else "never", *times]
            with running(logs / "proxy.log", *ask) as (proxy, at):
                client = openai.OpenAI(base_url=f"http://{at.removeprefix('http://')}/v1", api_key="none", timeout=7200, max_retries=0)
                load, start = os.getloadavg()[0], time.perf_counter()
                with Watch(server) as of_server, Watch(proxy) as of_client:
                    text, first = chat(client, turns, tokens)
                seconds = time.perf_counter() - start
            finished = FINISHED.search((logs / "proxy.log").read_text())
            assert finished, (logs / "proxy.log").read_text()
    return Row(
        way=way,
        system=turns[0]["content"],
        question=turns[1]["content"],
        prompt_tokens=count,
        padded_tokens=padded,
        answer_tokens=tokens,
        bytes=round(float(finished[2]) * 1e6),
        seconds=round(seconds, 1),
        first_token_seconds=round(first, 1),
        server_cpu_seconds=round(of_server.cpu_seconds, 1),
        client_cpu_seconds=round(of_client.cpu_seconds, 1),
        server_peak_bytes=of_server.peak_bytes,
        client_peak_bytes=of_client.peak_bytes,
        equals_simulated=text == wanted,
        text=text,
        load_average_before=round(load, 2),
        **prepared,
    )


def simulated(export: Path, turns: Sequence[Turn], tokens: int, context: int) -> tuple[str, int]:
    """The fixed-point program's answer in the clear, up to its end, and how many tokens the prompt has."""
    model = SimulatedModel(export)
    form = chat_format(export / "client", model.tokenizer)
    assert form is not None
    ids, _ = form.encode(turns, context)
    prompt = model.tokenizer.decode(ids, skip_special_tokens=False)
    answer = model.ask(prompt, tokens)
    assert list(answer.prompt_tokens) == ids, "the template's text gives other tokens"
    kept = [int(token) for token in answer.tokens if token is not None]
    ends = [index for index, token in enumerate(kept) if token in form.end_ids]
    return model.tokenizer.decode(kept[: ends[0]] if ends else kept), len(ids)


def table(rows: Sequence[dict]) -> str:
    lines = [
        "| | prompt, padded to | tokens | MB | first token, s | all, s | CPU s, both | memory, server and client, GB | as simulated |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        what = f"{row['prompt_tokens']}, {row['padded_tokens']} | {row['answer_tokens']}"
        if row["way"] == "prepared":
            cost = f"{row['prepare_bytes'] / 1e6:,.0f} | - | {row['prepare_seconds']:,.0f} | {row['prepare_cpu_seconds']:,.0f}"
            lines.append(f"| before the question | {what} | {cost} | - | - |")
        cpu = row["server_cpu_seconds"] + row["client_cpu_seconds"]
        memory = f"{row['server_peak_bytes'] / 1e9:.1f}, {row['client_peak_bytes'] / 1e9:.1f}"
        name = "the question, prepared" if row["way"] == "prepared" else "the question, nothing prepared"
        cost = f"{row['bytes'] / 1e6:,.0f} | {row['first_token_seconds']:,.0f} | {row['seconds']:,.0f} | {cpu:,.0f}"
        lines.append(f"| {name} | {what} | {cost} | {memory} | {'yes' if row['equals_simulated'] else 'no'} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/smollm2"), help="where smollm2_private.py left its export")
    parser.add_argument("--ways", nargs="+", choices=("prepared", "now"), default=["prepared"])
    parser.add_argument("--system", default=SYSTEM, help="a short one: every token of it is computed")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--tokens", type=int, default=8, help="of the answer")
    parser.add_argument("--write", action="store_true", help=f"{RESULTS} and {DOCUMENT}")
    options = parser.parse_args()
    export = options.folder / "private"
    context = load_description(export / "client").shape.context
    turns: list[Turn] = [{"role": "system", "content": options.system}, {"role": "user", "content": options.question}]
    wanted, count = simulated(export, turns, options.tokens, context)
    print(f"{count} tokens; simulated: {wanted!r}", flush=True)
    rows = [asdict(measure(way, export, turns, options.tokens, wanted, count, context)) for way in options.ways]
    print(json.dumps(rows, indent=1))
    if options.write:
        kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
        ours = {(row["way"], row["padded_tokens"], row["answer_tokens"]) for row in rows}
        rows = sorted(
            rows + [row for row in kept if (row["way"], row["padded_tokens"], row["answer_tokens"]) not in ours],
            key=lambda row: (row["padded_tokens"], row["way"] != "prepared"),
        )
        document = {"cores": os.cpu_count(), "rows": rows}
        write_atomic(RESULTS, json.dumps(document, indent=1) + "\n")
        write_section(DOCUMENT, "smollm2", table(rows))


if __name__ == "__main__":
    main()
