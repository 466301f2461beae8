"""`hushlm import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from hushlm.huggingface.importing.import_model import ImportReport

__all__ = ["import_model"]


def import_model(
    model: Path,
    output: Path,
    recipe: Literal["exact", "sm3", "sm2"] = "exact",
    text: Path | None = None,
    context: int | None = None,
    json: bool = False,
) -> None:
    """Turn a Hugging Face model into a checkpoint, as it is or rewritten into a cheaper one.

    GPT-2, GPT-NeoX (Pythia), LLaMA, Mistral without a sliding window and Qwen2. Recipes rewrite without training: sm3 and sm2 take an
    attention kernel of three and two squarings in place of softmax, at a temperature that is chosen on sample text, and in place of SiLU
    a quadratic that is fitted to each layer's gates. Perplexity is measured before and after on text that nothing was fitted on.

    Args:
        model: a folder as save_pretrained writes it, a .gguf file, or OWNER/MODEL on the Hugging Face hub.
        output: folder for the checkpoint, which `hushlm export` takes; an earlier checkpoint there is replaced.
        recipe: exact keeps what the model computes; sm3 and sm2 are cheaper.
        text: a text file to fit and measure on; by default Python's reference, Python code and descriptions of installed packages.
        context: longest text in tokens, prompt and answer together; the model's own by default.
        json: print one JSON document instead of tables.
    """
    from dataclasses import replace

    from hushlm.cli.first_token import first_token_price
    from hushlm.huggingface.importing.import_model import import_model as take_in

    report = take_in(str(model), output, recipe=recipe, text=text, context=context)
    prices = [
        {"architecture": name, **first_token_price(name, replace(report.shape, prefix=prefix))}
        for name, prefix in ((report.original, 0), (report.architecture, report.shape.prefix))
    ]
    if json:
        from hushlm.report.table import print_json

        print_json(report.to_dict() | {"price_before": prices[0], "price_after": prices[1]})
        return
    _print(report, prices)


def _print(report: ImportReport, prices: list[dict[str, Any]]) -> None:
    from dataclasses import asdict

    from hushlm.cli.first_token import PRICE_COLUMNS
    from hushlm.report.table import Column, Table, print_table

    print(f"Imported {report.source} to {report.folder}: {report.architecture}, up to {report.shape.context:,} tokens.")
    for note in report.notes:
        print(note)
    if report.temperature is not None:
        print(f"Temperature of the attention scores: {report.temperature:g}, chosen by the loss.")
    if report.gate_error is not None:
        print(f"Gates are quadratic; the root mean square error is at most {report.gate_error:.2g} in any layer.")
    print(f"Largest sum of products {report.largest:.3g}; fixed-point numbers hold {report.limit:.3g}.")
    rows = [asdict(each) | {"ratio": each.after / each.before} for each in report.measured]
    columns = (
        Column("name", "text kept apart"),
        Column("tokens", "tokens", ",", "right"),
        Column("before", "perplexity before", ".3f", "right"),
        Column("after", "after", ".3f", "right"),
        Column("ratio", "ratio", ".4f", "right"),
    )
    print_table(Table(f"Perplexity; {report.perplexity_ratio:.4f} times what it was (geometric mean)", columns, rows))
    priced = (
        Column("architecture", "architecture"),
        *PRICE_COLUMNS,
    )
    print_table(Table(f"First token of a prompt of {prices[0]['tokens']} tokens, predicted: before and after", priced, prices))
    print(f"Next: hushlm export {report.folder} FOLDER")
