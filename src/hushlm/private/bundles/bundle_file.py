"""One party's half of a prepared answer as a file of safetensors.

info        JSON: who may use it, and for what
needs       JSON: what each item is good for, in order
seed        what the masks are drawn from again, if it is known
N.NAME      words of item N that the seed does not give, by their names
manifest    JSON: the SHA-256 hash of every other entry, with its type and shape
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_type_hints

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hushlm.plan.needs import NEEDS_FORMAT, Need
from hushlm.private.bundles.bundle_errors import BundleError
from hushlm.private.bundles.private_files import check_file
from hushlm.private.prepared.masks import MaskSource
from hushlm.private.prepared.material import IDENTITY_BYTES, Item, Material
from hushlm.private.prepared.offline import draw_item

__all__ = ["IDENTITY_PATTERN", "BundleInfo", "StoredInfo", "bundle_content", "further_attributes", "read_bundle", "read_info"]

IDENTITY_PATTERN = f"[0-9a-f]{{{2 * IDENTITY_BYTES}}}"


@dataclass(frozen=True)
class BundleInfo:
    """What a listing shows of one prepared answer; nothing of it is secret.

    Attributes:
        identity: in hexadecimal; both halves have it in common.
        fingerprint: of the program that it was made for (`ProgramDescription.fingerprint`).
        prompt_bucket: length of the prompt, rounded up, in tokens.
        new_tokens: of the answer, at most.
        size_bytes: of the file.
        created_at: ISO 8601, UTC. For people: nothing depends on it.
        draft: how many tokens each pass of the answer guesses.
        problem: a sentence that says why it cannot be used; "" if, as far as a listing looks, it can. Where the file cannot be read,
            `fingerprint` is "" and the lengths are 0.
    """

    identity: str
    fingerprint: str
    prompt_bucket: int
    new_tokens: int
    size_bytes: int
    created_at: str
    problem: str = ""
    draft: int = 0


class StoredInfo(BaseModel):
    """`info` in the file.

    Attributes:
        party, peer: whose half it is, and with whom.
        format: `NEEDS_FORMAT`, and another number where the file itself is another one.
        inode: number of the file that it was written to. A copy has another one and is refused; two files cannot both be used.
        more: further attributes of the material.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    format: int = Field(default=NEEDS_FORMAT, ge=NEEDS_FORMAT, le=NEEDS_FORMAT)
    identity: Annotated[str, Field(pattern=f"^{IDENTITY_PATTERN}$")]
    party: Literal["client", "server"]
    peer: str
    fingerprint: str
    prompt_bucket: int = Field(ge=1)
    new_tokens: int = Field(ge=1)
    created_at: AwareDatetime
    inode: int
    more: dict[str, int] = {}

    @property
    def draft(self) -> int:
        """How many tokens each pass of the answer guesses."""
        return self.more.get("draft", 0)


def _stored_form(need: type) -> type[BaseModel]:
    """The model of a kind of need in the file: its name as `kind`, and its fields, all required and no others."""
    definitions: dict[str, Any] = {"kind": (Literal[need.__name__], ...)}
    definitions |= {name: (kind, ...) for name, kind in get_type_hints(need).items()}
    return create_model(f"Stored{need.__name__}", __config__=ConfigDict(extra="forbid", frozen=True, strict=True), **definitions)


_NEEDS = {each.__name__: each for each in get_args(Need)}
_STORED_NEEDS = tuple(_stored_form(need) for need in _NEEDS.values())
_NEED_LIST: TypeAdapter[list[Any]] = TypeAdapter(
    list[Annotated[Union[_STORED_NEEDS], Field(discriminator="kind")]],  # type: ignore[valid-type]  # noqa: UP007
)
_MANIFEST: TypeAdapter[dict[str, str]] = TypeAdapter(dict[str, str])


def further_attributes(material: Material) -> dict[str, int]:
    """What a material says of itself beyond its lengths and identity: `StoredInfo.more`."""
    known = {"prompt_bucket", "new_tokens", "identity"}
    return {
        each.name: getattr(material, each.name) for each in fields(material) if not each.name.startswith("_") and each.name not in known
    }


def bundle_content(info: StoredInfo, items: Sequence[Item], seed: bytes = b"") -> bytes:
    """The file's content. Words that `seed` gives are left out, each only if it really gives them."""
    needs = [{"kind": type(item.need).__name__, **asdict(item.need)} for item in items]
    entries = {"info": _text(info.model_dump_json()), "needs": _text(json.dumps(needs))}
    if seed:
        entries["seed"] = np.frombuffer(seed, np.uint8)
    again = _drawn_again([item.need for item in items], seed, info)
    for number, (item, drawn) in enumerate(zip(items, again, strict=True)):
        for name, words in item.words.items():
            if name not in drawn or drawn[name].dtype != words.dtype or not np.array_equal(drawn[name], words):
                entries[f"{number}.{name}"] = np.ascontiguousarray(words)
    manifest = {name: _digest(entry) for name, entry in entries.items()}
    return save({**entries, "manifest": _text(json.dumps(manifest))})


def read_info(path: Path) -> tuple[StoredInfo, int]:
    """Who may use a file and for what, and its size in bytes; the words are not looked at.

    Raises:
        BundleError: if it is damaged, of another version, or not a private file of this user.
    """
    found = check_file(path)
    try:
        with safe_open(path, framework="np") as file:
            info = StoredInfo.model_validate_json(file.get_tensor("info").tobytes())
    except ValidationError as error:
        if any(part["loc"] == ("format",) and isinstance(part["input"], int) for part in error.errors()):
            raise BundleError(f"{path} was written by another version of hushlm: drop it, and prepare again.") from None
        raise _damaged(path) from None
    except SafetensorError:
        raise _damaged(path) from None
    if info.inode != found.st_ino:
        raise BundleError(f"{path} is a copy, and its original may have been used: drop it, and prepare again.")
    return info, found.st_size


def read_bundle(path: Path) -> tuple[StoredInfo, Material]:
    """A file's whole content, every hash checked.

    Raises:
        BundleError: as `read_info`, and if any byte was changed.
    """
    info, _ = read_info(path)
    try:
        with safe_open(path, framework="np") as file:
            entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        manifest = _MANIFEST.validate_json(entries.pop("manifest").tobytes())
        if manifest != {name: _digest(entry) for name, entry in entries.items()}:
            raise _damaged(path)
        info = StoredInfo.model_validate_json(entries.pop("info").tobytes())
        stored = _NEED_LIST.validate_json(entries.pop("needs").tobytes())
        seed = entries.pop("seed", np.empty(0, np.uint8))
    except (SafetensorError, ValueError, KeyError):
        raise _damaged(path) from None
    needs = [_NEEDS[each.kind](**each.model_dump(exclude={"kind"})) for each in stored]
    words = list(_drawn_again(needs, seed.tobytes(), info))
    for entry, value in entries.items():
        number, _, name = entry.partition(".")
        words[int(number)][name] = value
    items = [Item(need, own) for need, own in zip(needs, words, strict=True)]
    seed[:] = 0
    more: dict[str, Any] = dict(info.more)
    return info, Material(info.prompt_bucket, info.new_tokens, bytes.fromhex(info.identity), items, **more)


def _drawn_again(needs: Sequence[Need], seed: bytes, info: StoredInfo) -> Iterator[dict[str, np.ndarray]]:
    """The words that a seed gives, need by need; without a seed none."""
    source = MaskSource.again(seed) if seed else None
    for need in needs:
        yield {} if source is None else draw_item(need, source, info.party == "client").words


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _digest(entry: np.ndarray) -> str:
    digest = hashlib.sha256(f"{entry.dtype.str}{entry.shape}".encode())
    digest.update(entry.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _damaged(path: Path) -> BundleError:
    return BundleError(f"{path} is damaged or was altered, so it is not used: drop it, and prepare again.")
