"""A Hugging Face folder, a GGUF file or a name on the hub as a checkpoint that can be exported and served privately."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hushlm.adaptation.rewriting import mean_losses_nats
from hushlm.config import ModelShape
from hushlm.data.tokenizer import Tokenizer
from hushlm.files import check_replaceable, check_writable
from hushlm.huggingface.importing.number_range import largest_number, product_limit
from hushlm.huggingface.importing.recipes import RECIPES, Recipe, fit_recipe, with_prefix
from hushlm.huggingface.importing.sample_text import WINDOW, Sample, sample_windows
from hushlm.huggingface.opening import open_hf_model
from hushlm.huggingface.saved_checkpoint import our_tokenizer, save_taken_over, take_over_hf
from hushlm.model.language_model import LanguageModel

__all__ = ["ImportReport", "import_model"]


@dataclass(frozen=True)
class Measured:
    """Perplexities on one domain's text that nothing was fitted on.

    Attributes:
        name: of the domain.
        tokens: how many were predicted.
        before: the model as it came.
        after: the checkpoint.
    """

    name: str
    tokens: int
    before: float
    after: float


@dataclass(frozen=True)
class ImportReport:
    """What an import found and did.

    Attributes:
        folder: the checkpoint.
        source: the model's name or place.
        original, architecture: the architecture of the model as it came, and of the checkpoint.
        shape: the checkpoint's sizes.
        recipe: what was made of it.
        temperature: the factor on all temperatures, if the recipe has one.
        gate_error: the largest root mean square error of a layer's fitted gate, if the recipe has one.
        measured: perplexities, one entry a domain.
        largest: the largest sum of products on the sample text, which fixed-point numbers must hold.
        limit: what they hold.
        notes: sentences on what was found and done about it.
    """

    folder: Path
    source: str
    original: str
    architecture: str
    shape: ModelShape
    recipe: Recipe
    temperature: float | None
    gate_error: float | None
    measured: tuple[Measured, ...]
    largest: float
    limit: float
    notes: tuple[str, ...] = field(default=())

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity after over before, the geometric mean of the domains."""
        return math.exp(sum(math.log(each.after / each.before) for each in self.measured) / len(self.measured))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"folder": str(self.folder), "shape": self.shape.to_dict(), "perplexity_ratio": self.perplexity_ratio}


def import_model(
    name: str, output: Path, *, recipe: Recipe = "exact", text: Path | None = None, context: int | None = None
) -> ImportReport:
    """Take a model over, rewrite it by a recipe, measure it, and write it as a checkpoint.

    Args:
        name: a folder as `save_pretrained` writes it, a .gguf file, or OWNER/MODEL on the hub.
        output: the checkpoint's folder; an earlier checkpoint there is replaced.
        recipe: "exact", "sm3" or "sm2".
        text: a text file to fit and measure on, instead of three domains that come with Python and its packages.
        context: the longest text, prompt and answer together; the model's own by default.

    Raises:
        ValueError: one sentence: what `open_hf_model` and `take_over_hf` refuse, a tokenizer or a text that does not fit the model, or
            numbers too large for fixed point.
    """
    if recipe not in RECIPES:
        raise ValueError(f"There is no recipe {recipe!r}: choose one of {', '.join(RECIPES)}.")
    check_replaceable(output)
    check_writable(output)
    hf_model, hf_tokenizer = open_hf_model(name)
    model, notes = take_over_hf(hf_model), list[str]()
    tokenizer = our_tokenizer(hf_tokenizer, model.shape.vocabulary)
    if context is not None:
        model = _with_context(model, context)
    length = min(WINDOW, model.shape.context - 1)
    if length < 2:
        raise ValueError(f"A context of {model.shape.context} tokens leaves no text to measure on: the model needs at least 3.")
    samples = sample_windows(tokenizer, length, text)
    fit, kept = [sample.fit_NT for sample in samples], [sample.kept_NT for sample in samples]
    _check_ids(kept + fit, model)
    original = model
    first, last = _template_tokens(tokenizer)
    if first and model.architecture.is_rotary:
        original = model = with_prefix(model, first)
        notes.append(
            f"The tokenizer begins every text with {_named(tokenizer, first)}. It became a prefix of the model: its keys and values are "
            "the same for every text, so that they are kept as numbers of the server's and never computed."
        )
    elif first:
        notes.append(f"The tokenizer begins every text with {_named(tokenizer, first)}, and Hush does not: a prompt is read as it is.")
    if last:
        notes.append(f"The tokenizer ends every text with {_named(tokenizer, last)}, and Hush does not: a prompt goes on in its answer.")
    before = mean_losses_nats(original, kept)
    if not all(map(math.isfinite, before)):
        raise ValueError(f"{name} has no finite loss on the sample text: its weights may be damaged.")
    model, largest = _within_range(model, hf_model, tokenizer, torch.cat(fit), notes)
    fitted = fit_recipe(model, recipe, fit)
    after = mean_losses_nats(fitted.model, kept)
    folder = Path(output)
    save_taken_over(fitted.model, hf_model, hf_tokenizer, tokenizer, folder)
    return ImportReport(
        folder=folder,
        source=name,
        original=str(original.architecture),
        architecture=str(fitted.model.architecture),
        shape=fitted.model.shape,
        recipe=recipe,
        temperature=fitted.temperature,
        gate_error=fitted.gate_error,
        measured=tuple(_measured(*each) for each in zip(samples, before, after, strict=True)),
        largest=largest,
        limit=product_limit(),
        notes=tuple(notes),
    )


def _measured(sample: Sample, before: float, after: float) -> Measured:
    rows, length = sample.kept_NT.shape
    return Measured(sample.name, rows * (length - 1), math.exp(min(before, 700.0)), math.exp(min(after, 700.0)))


def _with_context(model: LanguageModel, context: int) -> LanguageModel:
    """The model with a shorter context.

    Raises:
        ValueError: if it is longer than the model's, or less than three tokens.
    """
    if not 3 <= context <= model.shape.context:
        raise ValueError(f"The model reads up to {model.shape.context} tokens: give a --context from 3 to {model.shape.context}.")
    shorter = LanguageModel(model.architecture, replace(model.shape, context=context))
    state = model.state_dict()
    if "positions.weight" in state:
        state["positions.weight"] = state["positions.weight"][:context].clone()
    shorter.load_state_dict(state)
    return shorter.eval()


def _check_ids(windows: list[Tensor], model: LanguageModel) -> None:
    """Raises: ValueError if the tokenizer gives a number that the model has no row for."""
    largest = max(int(each.max()) for each in windows)
    if largest >= model.shape.vocabulary:
        raise ValueError(
            f"The tokenizer gives token {largest}, and the model's vocabulary has {model.shape.vocabulary}: they do not belong together."
        )


def _template_tokens(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens that the tokenizer's own template adds before and after a text."""
    library, bare = tokenizer.library, tokenizer.encode("a").ids
    whole = library.encode("a", add_special_tokens=True).ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []


def _named(tokenizer: Tokenizer, ids: list[int]) -> str:
    return " ".join(tokenizer.id_to_token(number) or str(number) for number in ids)


def _within_range(
    model: LanguageModel, hf_model: Any, tokenizer: Tokenizer, windows_NT: Tensor, notes: list[str]
) -> tuple[LanguageModel, float]:
    """The model itself, or the model with its first token as a prefix where only that fits fixed point; and its largest number.

    Raises:
        ValueError: if neither fits.
    """
    limit, found = product_limit(), largest_number(model, windows_NT)
    if found.value < limit:
        return model, found.value
    reaches = (
        f"The {found.what} of {found.module} reaches {found.value:.3g} at token {found.position + 1} of a text (its largest entry is "
        f"{found.entry:.3g}), and fixed-point numbers hold sums of products up to {limit:.3g}"
    )
    start = getattr(hf_model.config, "bos_token_id", None)
    can = model.architecture.is_rotary and not model.shape.prefix
    if not can or not isinstance(start, int) or not 0 <= start < model.shape.vocabulary:
        raise ValueError(f"{reaches}: this model cannot be served privately as it is.")
    prefixed = with_prefix(model, [start])
    again = largest_number(prefixed, windows_NT)
    if not again.value < limit:
        raise ValueError(f"{reaches}; with its first token {_named(tokenizer, [start])} as a prefix it is still {again.value:.3g}.")
    notes.append(
        f"{reaches}. With the first token {_named(tokenizer, [start])} as a prefix, whose keys and values are numbers of the server's and "
        f"whose own row is never computed, the largest is {again.value:.3g}."
    )
    return prefixed, again.value
