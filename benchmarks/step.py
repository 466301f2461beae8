"""A whole training step of GPT-2 small: ours with the regulariser, Hugging Face's with the listing, a plain GPT without entropy.

    python benchmarks/step.py [--contexts 128,512] [--rounds 3] [--device cuda] [--json] [--write]

The same architecture (SM+LN+G, 124M parameters), the same starting weights, the same 1024 tokens a step (8,192 on a GPU), float32, fused
AdamW, gradients clipped at norm 1, each contestant in a process of its own as its users would start it, interleaved: every round runs one
step of each and a matrix product, one after another, and the best round of each counts. All three must find the same loss on the first
batch.

    ours      `LanguageModel` with the compiled attention, `EntropyRegulariser`, the training loop's own passes
    hf        transformers' GPT2LMHeadModel, eager attention, output_attentions=True, regulariser by the paper's listing: layer by layer,
              head by head, -sum p log(p + 1e-9)
    plain     embeddings, nn.Linear, nn.LayerNorm, scaled_dot_product_attention, cross_entropy: no entropy, no regulariser

A model FLOP is one that the step needs: 6 for each matrix weight and token (the head included, embeddings are looked up), and
6 L T D for each token's causal half of scores and mixing. The peak is the best rate of float32 products of 1024 x 1024, 2048 x 2048 (on a
GPU 8192 x 8192) and the model's own, tokens x 768 x 3072 and tokens x 768 x 50257. Rates are by the wall clock and, for machines that
others use as well, by the CPU time of all threads; load is how many threads wanted a core, and the table leaves out the wall clock's rates
where it was higher than the number of cores. Writes results/step.json (step-cuda.json), and with --write the table in
docs/training-speed.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attention import DOCUMENT, EPSILON, wait_for
from hushlm.architectures import parse
from hushlm.config import ModelShape, TrainingConfig
from hushlm.entropy import EntropyRegulariser
from hushlm.files import write_atomic
from hushlm.huggingface.gpt2 import to_hf_gpt2
from hushlm.model import LanguageModel
from hushlm.report.table import Column, Table, print_table
from hushlm.training.gradient import backpropagate
from hushlm.training.memory import keep_freed_memory
from hushlm.training.optimiser import make_optimiser
from hushlm.training.team import Team, clip, total_norm
from hushlm.training.world import World
from sections import write_section

CONTESTANTS = ("ours", "hf", "plain")
TOKENS = {"cpu": 1024, "cuda": 8192}
WARM_UP = 2
"""Rounds that do not count."""

ENTROPY_WEIGHT, TOLERANCE, THRESHOLD = 1e-5, 0.2, 0.5
PRODUCTS = {
    "cpu": ((1024, 1024, 1024), (2048, 2048, 2048), (1024, 768, 3072), (1024, 768, 50257)),
    "cuda": ((8192, 8192, 8192), (8192, 768, 3072), (8192, 768, 50257)),
}


class PlainBlock(nn.Module):
    """A GPT-2 block as one would write it today, without any entropy."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feed_forward = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "output")})
        self.feed_forward = nn.ModuleDict({"expand": nn.Linear(width, 4 * width), "contract": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        n = self.norm_attention(x)
        q, k, v = (self.attention[name](n).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attention["output"](y.transpose(1, 2).flatten(2))
        hidden = F.gelu(self.feed_forward["expand"](self.norm_feed_forward(x)), approximate="tanh")
        return x + self.feed_forward["contract"](hidden)


class PlainGPT(nn.Module):
    """Parameters are named as in `LanguageModel`, so that all start from the same weights."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(shape.vocabulary, shape.width), nn.Embedding(shape.context, shape.width)
        self.blocks = nn.Sequential(*(PlainBlock(shape.width, shape.heads) for _ in range(shape.layers)))
        self.final_norm = nn.LayerNorm(shape.width)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        return F.linear(self.final_norm(self.blocks(x)), self.embedding.weight)


def listing_penalty(attentions: tuple[Tensor, ...], threshold: Tensor, context: int) -> Tensor:
    """The paper's penalty in the way of its listing: every row of every head, summed over batch and rows."""
    maximum = math.log(context)
    layers = []
    for layer, p in enumerate(attentions):
        heads = []
        for head in range(p.shape[1]):
            entropy = -(p[:, head] * torch.log(p[:, head] + EPSILON)).sum(-1)
            deviation = entropy - threshold[layer, head] * maximum
            outside = deviation.abs() > TOLERANCE * maximum
            heads.append(torch.where(outside, deviation**2, torch.zeros_like(deviation)).sum())
        layers.append(torch.stack(heads).mean())
    return torch.stack(layers).mean()


def ours(model: LanguageModel, settings: TrainingConfig, device: torch.device) -> Callable[[Tensor], float]:
    shape = model.shape
    regulariser = EntropyRegulariser(
        shape.layers, shape.heads, shape.context, tolerance=TOLERANCE, initial_threshold=THRESHOLD, reduction="listing"
    )
    team = Team(model.train(), regulariser, settings, World(device=device))
    optimiser = make_optimiser({"model": model, "regulariser": regulariser}, settings)
    parameters = [*model.parameters(), *regulariser.parameters()]

    def step(window_BT: Tensor) -> float:
        optimiser.zero_grad(set_to_none=True)
        found = backpropagate(team, window_BT, len(window_BT), ENTROPY_WEIGHT, settings, with_entropy=False)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(gradients)
        if norm.item() > 1:
            clip(gradients, 1.0, norm)
        optimiser.step()
        return found.loss

    return step


def peer(model: nn.Module, losses: Callable[[Tensor], tuple[Tensor, Tensor]], more: list[nn.Parameter]) -> Callable[[Tensor], float]:
    parameters = [*model.parameters(), *more]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(window_BT: Tensor) -> float:
        optimiser.zero_grad(set_to_none=True)
        loss, penalty = losses(window_BT)
        (loss + penalty).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        return loss.item()

    return step


def shape_of(context: int, layers: int, vocabulary: int) -> ModelShape:
    return ModelShape(layers=layers, heads=12, width=768, context=context, vocabulary=vocabulary)


def contestant(name: str, shape: ModelShape, device: torch.device) -> Callable[[Tensor], float]:
    """One step of a contestant; every one starts from the same weights."""
    model = LanguageModel(parse("EReg(SM+LN+G)"), shape)
    if name == "ours":
        if device.type == "cpu":
            keep_freed_memory()  # as `train` does
        return ours(model, TrainingConfig(batch=TOKENS[device.type] // shape.context, learning_rate=1e-4), device)
    if name == "plain":
        plain = PlainGPT(shape)
        plain.load_state_dict(model.state_dict())
        plain.to(device)

        def plain_losses(window_BT: Tensor) -> tuple[Tensor, Tensor]:
            loss = F.cross_entropy(plain(window_BT[:, :-1]).flatten(0, 1), window_BT[:, 1:].flatten())
            return loss, torch.zeros((), device=device)

        return peer(plain, plain_losses, [])
    hf = to_hf_gpt2(model).to(device)
    hf.set_attn_implementation("eager")
    hf.train()
    threshold = nn.Parameter(torch.full((shape.layers, shape.heads), THRESHOLD, device=device))

    def hf_losses(window_BT: Tensor) -> tuple[Tensor, Tensor]:
        output = hf(window_BT[:, :-1], output_attentions=True, use_cache=False)
        loss = F.cross_entropy(output.logits.flatten(0, 1), window_BT[:, 1:].flatten())
        return loss, ENTROPY_WEIGHT * listing_penalty(output.attentions, threshold, shape.context)

    return peer(hf, hf_losses, [threshold])


def serve(name: str, shape: ModelShape, threads: int, device: torch.device, pipe: Connection) -> None:
    """Run a step for every batch that comes: loss, seconds and CPU seconds go back."""
    if threads:
        torch.set_num_threads(threads)
    step = contestant(name, shape, device)
    gc.collect()
    while (window_BT := pipe.recv()) is not None:
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = step(window_BT.to(device))
        wait_for(device.type)
        pipe.send((loss, time.perf_counter() - start, time.process_time() - cpu_start))


def flops_a_token(shape: ModelShape) -> float:
    """Forward and backward, as the module's docstring counts."""
    weights = shape.layers * (4 * shape.width**2 + 2 * shape.width * shape.ffn_width) + shape.width * shape.vocabulary
    return 6 * weights + 6 * shape.layers * shape.context * shape.width


def product_rate(device: torch.device) -> tuple[float, float]:
    """The largest rate of a matrix product now, FLOP in a second, and in a CPU second."""
    best = cpu_best = 0.0
    for rows, inner, columns in PRODUCTS[device.type]:
        a, b = torch.rand(rows, inner, device=device), torch.rand(inner, columns, device=device)
        out = a @ b
        for _ in range(3):
            wait_for(device.type)
            start, cpu_start = time.perf_counter(), time.process_time()
            torch.mm(a, b, out=out)
            wait_for(device.type)
            flops = 2 * rows * inner * columns
            best = max(best, flops / (time.perf_counter() - start))
            cpu_best = max(cpu_best, flops / (time.process_time() - cpu_start))
    return best, cpu_best


def measure(context: int, rounds: int, layers: int, vocabulary: int, device: torch.device) -> dict:
    shape, tokens = shape_of(context, layers, vocabulary), TOKENS[device.type]
    generator = torch.Generator().manual_seed(0)
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for name in CONTESTANTS:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=serve, args=(name, shape, torch.get_num_threads(), device, theirs), daemon=True).start()
    best, best_cpu, peak, cpu_peak = dict.fromkeys(CONTESTANTS, math.inf), dict.fromkeys(CONTESTANTS, math.inf), 0.0, 0.0
    for number in range(rounds + WARM_UP):
        window_BT = torch.randint(shape.vocabulary, (tokens // context, context + 1), generator=generator)
        losses = {}
        for name, pipe in pipes.items():
            pipe.send(window_BT)
            losses[name], seconds, cpu_seconds = pipe.recv()
            if number >= WARM_UP:
                best[name], best_cpu[name] = min(best[name], seconds), min(best_cpu[name], cpu_seconds)
        if number == 0:
            assert max(losses.values()) - min(losses.values()) < 1e-3, f"the contestants compute different functions: {losses}"
        rate_now, cpu_rate_now = product_rate(device)
        peak, cpu_peak = max(peak, rate_now), max(cpu_peak, cpu_rate_now)
    for pipe in pipes.values():
        pipe.send(None)
    rate = {name: tokens / seconds for name, seconds in best.items()}
    cpu_rate = {name: tokens / seconds for name, seconds in best_cpu.items()}
    return {
        "context": context,
        "batch": tokens // context,
        "threads": torch.get_num_threads(),
        "tokens_per_second": rate["ours"],
        "hf_tokens_per_second": rate["hf"],
        "plain_tokens_per_second": rate["plain"],
        "ratio_to_hf": rate["ours"] / rate["hf"],
        "ratio_to_plain": rate["ours"] / rate["plain"],
        "peak_flop_per_second": peak,
        "utilisation": rate["ours"] * flops_a_token(shape) / peak,
        "hf_utilisation": rate["hf"] * flops_a_token(shape) / peak,
        "plain_utilisation": rate["plain"] * flops_a_token(shape) / peak,
        "cpu_ratio_to_hf": cpu_rate["ours"] / cpu_rate["hf"],
        "cpu_ratio_to_plain": cpu_rate["ours"] / cpu_rate["plain"],
        "cpu_utilisation": cpu_rate["ours"] * flops_a_token(shape) / cpu_peak,
        "load_average": os.getloadavg()[0],
    }


COLUMNS = (
    Column("context", "T", "d", "right"),
    Column("batch", "B", "d", "right"),
    Column("tokens_per_second", "ours, tokens/s", ".0f", "right"),
    Column("hf_tokens_per_second", "HF + listing", ".0f", "right"),
    Column("plain_tokens_per_second", "plain GPT", ".0f", "right"),
    Column("ratio_to_hf", "ours / HF", ".2f", "right"),
    Column("ratio_to_plain", "ours / plain", ".2f", "right"),
    Column("peak_flop_per_second", "GEMM peak, GFLOP/s", lambda rate: f"{rate / 1e9:.0f}", "right"),
    Column("utilisation", "ours of peak", ".0%", "right"),
    Column("hf_utilisation", "HF", ".0%", "right"),
    Column("plain_utilisation", "plain", ".0%", "right"),
    Column("cpu_ratio_to_hf", "by CPU time: ours / HF", ".2f", "right"),
    Column("cpu_ratio_to_plain", "ours / plain", ".2f", "right"),
    Column("cpu_utilisation", "of peak", ".0%", "right"),
    Column("load_average", "load", ".0f", "right"),
)


def readable(row: dict) -> dict:
    """A row without its wall-clock figures if more threads wanted a core than there are: those say what others did."""
    crowded = row["load_average"] > (os.cpu_count() or 1) + 1
    kept = ("context", "batch", "threads", "load_average")
    return {key: None if crowded and key not in kept and not key.startswith("cpu_") else value for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--contexts", default="128,512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0 leaves torch's choice")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="by default results/step(-cuda).json; rows of other contexts in it are kept")
    parser.add_argument("--table", action="store_true", help="measure nothing, show what the output holds")
    parser.add_argument("--json", action="store_true", help="print the JSON document")
    parser.add_argument("--write", action="store_true", help="regenerate the table in docs/training-speed.md")
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    named = "step" if asked.device == "cpu" else f"step-{asked.device}"
    output = asked.output or Path("results", f"{named}.json")
    rows = {row["context"]: row for row in json.loads(output.read_text())["rows"]} if output.is_file() else {}
    for context in [] if asked.table else map(int, asked.contexts.split(",")):
        rows[context] = measure(context, asked.rounds, asked.layers, asked.vocabulary, device)
        gc.collect()
    document = {
        "device": torch.cuda.get_device_name() if asked.device == "cuda" else "cpu",
        "torch": torch.__version__,
        "layers": asked.layers,
        "vocabulary": asked.vocabulary,
        "rows": [rows[context] for context in sorted(rows)],
    }
    table = Table("", COLUMNS, [readable(row) for row in document["rows"]])
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, json.dumps(document, indent=1))
    if asked.json:
        print(json.dumps(document))
    else:
        print_table(table)
    if asked.write:
        where = f"{rows[min(rows)]['threads']} thread(s)" if asked.device == "cpu" else f"{document['device']}, torch {document['torch']}"
        write_section(DOCUMENT, named, f"{where}.\n\n{table.to_markdown()}")


if __name__ == "__main__":
    main()
