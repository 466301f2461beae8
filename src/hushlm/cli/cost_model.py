"""What `hushlm cost` prices: an architecture at a shape that is given, or a model that lies in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hushlm.architectures import Architecture, parse
from hushlm.box import checkpoint_folder
from hushlm.config import ModelShape
from hushlm.cost.measured import read_model
from hushlm.files import current_folder
from hushlm.plan import HUSH, PUBLISHED, ProtocolSettings, Rewrites
from hushlm.shapes import GPT2_SMALL

__all__ = ["PricedModel", "priced_model"]

DESCRIPTION_FILE = "program.json"
SIZES = {name: name for name in ("layers", "heads", "width", "context", "ffn_multiple")} | {"vocab": "vocabulary"}
"""The shape's field for each option."""


@dataclass(frozen=True)
class PricedModel:
    """A model, and how its private program is written and run.

    Attributes:
        folder: where it was read from; None for one that exists on paper only.
    """

    architecture: Architecture
    shape: ModelShape
    rewrites: Rewrites
    settings: ProtocolSettings
    folder: Path | None


def priced_model(text: str, sizes: Mapping[str, int | None], profile: str | None, forms: str) -> PricedModel:
    """The model that a name or a folder stands for.

    Args:
        text: an architecture's name, or the folder of a checkpoint or of an export.
        sizes: what was given for each of `SIZES`, None for what was not. A name takes GPT-2 small's sizes for these.
        profile: "wan" or "lan", None if not given: an export has its own, everything else takes "wan".
        forms: "hush" or "published".

    Raises:
        ValueError: in one sentence, if the text is neither, or an option contradicts the folder.
    """
    folder = checkpoint_folder(current_folder(Path(text)))
    published = forms == "published"
    settings = ProtocolSettings(pack_products=profile != "lan")
    rewrites = PUBLISHED if published else HUSH
    try:
        architecture = parse(text)
    except ValueError:
        if not folder.is_dir():
            if "/" in text:
                raise ValueError(f"There is no folder {text}, and no architecture is called so.") from None
            raise
    else:
        given = {SIZES[option]: value for option, value in sizes.items() if value is not None}
        base = {field: getattr(GPT2_SMALL, field) for field in SIZES.values()}
        return PricedModel(architecture, ModelShape(**(base | given)), rewrites, settings, None)
    exported = next((inside for inside in (folder, folder / "client", folder / "server") if (inside / DESCRIPTION_FILE).is_file()), None)
    if exported is None:
        name, shape = read_model(checkpoint_folder(Path(text)))
        model = PricedModel(parse(name), shape, rewrites, settings, Path(text))
    else:
        from hushlm.private.program.description import load_description

        description = load_description(exported)
        if published:
            raise ValueError(f"{text} was exported as Hush writes programs: leave out --forms published, or price its checkpoint.")
        if profile is not None and settings.pack_products != description.engine.pack_products:
            raise ValueError(f"{text} was not exported with --profile {profile}: leave the option out, or export the model again.")
        model = PricedModel(description.parsed_architecture, description.shape, description.rewrites, description.engine, Path(text))
    for option, value in sizes.items():
        has = getattr(model.shape, SIZES[option])
        if value is not None and value != has:
            raise ValueError(f"--{option} {value} contradicts the model in {text}, which has {has}: leave the option out.")
    return model
