"""A causal language model and its tokenizer from a folder, a .gguf file or the Hugging Face hub: whole, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hushlm.files import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["open_hf_model"]

_HUB_TIMEOUT_SECONDS = 10


def open_hf_model(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer, in evaluation mode and float32.

    Code that comes with a model is not run.

    Args:
        name: a folder as `save_pretrained` writes it, a .gguf file, or OWNER/MODEL on the Hugging Face hub (or in its cache).

    Raises:
        ValueError: one sentence: transformers is missing, nothing is there, what is there is no causal language model, a file is damaged,
            the weights are not those that the config describes (missing, left over, or of other shapes), or there is no tokenizer.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ValueError("Opening a Hugging Face model needs transformers: pip install 'hushlm[hf]'.") from None
    source = _source(name)
    with _quiet():
        try:
            # Other shapes are asked for, because only then are they named; they are refused below.
            settings: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True, "ignore_mismatched_sizes": True}
            model, found = AutoModelForCausalLM.from_pretrained(**source, **settings)
        except Exception as error:  # transformers, safetensors, gguf and pickle each raise their own
            raise ValueError(f"{name} could not be opened as a causal language model: {_first_sentence(error)}.") from error
        _check_weights(name, type(model).__name__, found)
        try:
            tokenizer = AutoTokenizer.from_pretrained(**source)
        except Exception as error:
            raise ValueError(f"The tokenizer of {name} could not be opened: {_first_sentence(error)}.") from error
    if len(tokenizer) <= len(set(tokenizer.all_special_tokens)):
        raise ValueError(f"{name} has no tokenizer: put tokenizer.json (or the tokenizer's own files) beside the weights.")
    return model.eval(), tokenizer


def _source(name: str) -> dict[str, Any]:
    """Arguments of `from_pretrained`.

    Raises:
        ValueError: if there is nothing of that name, here or on the hub.
    """
    path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"There is no file {name}.")
        return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "trust_remote_code": False}
    source: dict[str, Any] = {"pretrained_model_name_or_path": name, "trust_remote_code": False}
    if path.is_dir():
        _check_base(path)
        return source
    if path.exists():
        raise ValueError(f"{name} is a file: it is no folder of a model, no .gguf file, and no name on the Hugging Face hub (OWNER/MODEL).")
    cached = _is_cached(name)
    owner, _, model = name.partition("/")
    is_path = not owner or not model or "/" in model or owner.startswith((".", "~")) or Path(owner).exists()
    if is_path and not cached:
        raise ValueError(
            f"There is no folder {name}: it is no folder of a model here, and no name on the Hugging Face hub, which reads OWNER/MODEL."
        )
    if (reason := _reason_not_on_hub(name)) is not None:
        if not cached:
            raise ValueError(f"{name} could not be opened as a causal language model: there is no such folder here, and {reason}.")
        source["local_files_only"] = True  # without it every file is asked for five times
    return source


def _check_base(folder: Path) -> None:
    """Raises: ValueError if the folder holds an adapter alone and the model that it belongs to is nowhere."""
    path = folder / "adapter_config.json"
    if not path.is_file() or (folder / "config.json").is_file():
        return
    try:
        base = str(read_json(path)["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} does not say which model the adapter belongs to.") from None
    try:
        _source(base)
    except ValueError as error:
        raise ValueError(f"{folder} holds an adapter of the model {base}, and without it nothing can be measured: {error}") from None


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        return False


def _reason_not_on_hub(name: str) -> str | None:
    """Why a model cannot be had from the hub, asked once and without the library's retries; None if it can."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_HUB_TIMEOUT_SECONDS)
    except OfflineModeIsEnabled:
        return "the Hugging Face hub is switched off (HF_HUB_OFFLINE)"
    except HFValidationError:
        return "it is no name on the Hugging Face hub, which reads OWNER/MODEL"
    except GatedRepoError:
        return "the Hugging Face hub gives this model only to those who have accepted its terms (hf auth login)"
    except RepositoryNotFoundError:
        return "the Hugging Face hub has no public model of this name"
    except HfHubHTTPError as error:
        return f"the Hugging Face hub answered: {_first_sentence(error)}"
    except Exception as error:  # the HTTP client's own: no name service, no route, no certificate, too slow
        return f"the Hugging Face hub cannot be reached ({_first_sentence(error)})"
    return None


def _check_weights(name: str, family: str, found: dict[str, Any]) -> None:
    """Raises: ValueError if weights are missing (they would be drawn at random), left over, or of other shapes."""
    if mismatched := sorted(found["mismatched_keys"]):
        key, saved, expected = mismatched[0]
        raise ValueError(
            f"{name} holds {key} of shape {tuple(saved)}, but its config.json asks for {tuple(expected)}: they belong to two models."
        )
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"{name} lacks {len(missing)} of the weights that a {family} has, for example {missing[0]}.")
    if extra := sorted(found["unexpected_keys"]):
        raise ValueError(
            f"{name} holds {len(extra)} weights that a {family} does not have, for example {extra[0]}: what the model computes with them "
            "would be left out. Merge adapters into the model, or remove added layers."
        )
    if problems := found.get("error_msgs"):
        raise ValueError(f"{name} could not be loaded: {_first_sentence(ValueError(problems[0]))}.")


def _first_sentence(error: Exception) -> str:
    """What went wrong, without a full stop; with the kind of error where its text alone says little."""
    text = " ".join(str(error).split()).split(". ")[0].rstrip(".")
    if "SafetensorError" in type(error).__name__:
        return f"its weights are truncated or damaged ({text})"
    return text if isinstance(error, (OSError, ValueError, ImportError)) and text else f"{type(error).__name__} {text}".strip()


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings, which are raised as sentences instead, nor progress bars of half a second."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
