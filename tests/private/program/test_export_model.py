"""Exported folders: what is in them, and what export decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.private.models import SHAPE, arrays, random_model

from hushlm.architectures import parse
from hushlm.config import RunConfig
from hushlm.data import open_token_store
from hushlm.data.chat_files import ChatFiles, read_chat_files
from hushlm.data.tokenizer_choice import make_tokenizer
from hushlm.plan import HUSH
from hushlm.private.program.description import load_description, load_server_weights
from hushlm.private.program.export_model import ERROR_TOLERANCE, choose_rewrites, export_model, rounded_error
from hushlm.training import Checkpoint, load_checkpoint, train


@pytest.fixture
def checkpoint(tiny: Callable[..., RunConfig]) -> Checkpoint:
    config = tiny("EReg(SM2(t)+ScFuFFN)")
    train(config, open_token_store(config.data))
    return load_checkpoint(config.output)


def test_both_folders_describe_the_same_program_and_the_client_gets_no_weights(checkpoint: Checkpoint, tmp_path: Path) -> None:
    report = export_model(checkpoint, tmp_path / "out")
    server, client = tmp_path / "out/server", tmp_path / "out/client"
    assert load_description(server) == load_description(client)
    assert load_description(client).fingerprint == report.fingerprint
    assert load_description(client).architecture == "SM2(t)+ScFuFFN"
    assert sorted(path.name for path in client.iterdir()) == ["manifest.json", "program.json", "tokenizer.json"]
    with pytest.raises(ValueError, match="server/ folder"):
        load_server_weights(client)
    state = arrays(checkpoint.model)
    for path in client.iterdir():
        content = path.read_bytes()
        for value in state.values():
            assert value.astype(np.float32).tobytes()[:64] not in content
    assert load_server_weights(server).keys() == {
        "embedding.table",
        "embedding.positions",
        "head.weight",
        "head.bias",
        *(
            f"{layer}.{name}"
            for layer in range(2)
            for name in (
                "query_key_value.weight",
                "query_key_value.bias",
                "attention_output.weight",
                "attention_output.bias",
                "temperature.inverse",
            )
        ),
        *(f"1.{name}" for name in ("query.weight", "query.bias", "key_value.weight", "key_value.bias")),
    }


def test_export_is_deterministic(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_model(checkpoint, tmp_path / "one")
    export_model(checkpoint, tmp_path / "two")
    for side in ("server", "client"):
        for path in (tmp_path / "one" / side).iterdir():
            assert path.read_bytes() == (tmp_path / "two" / side / path.name).read_bytes()


def test_a_template_beside_the_tokenizer_of_the_training_goes_to_the_client(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    vendor = tmp_path / "vendor"
    vendor.mkdir()
    make_tokenizer("bytes", []).save(vendor / "tokenizer.json")
    (vendor / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (vendor / "tokenizer_config.json").write_text('{"name_or_path": "/home/me", "eos_token": "!"}')
    config = tiny("SM", data={"tokenizer": str(vendor / "tokenizer.json")}, training={"steps": 1, "warmup_steps": 1, "evaluate_every": 1})
    train(config, open_token_store(config.data))
    checkpoint = load_checkpoint(config.output)
    export_model(checkpoint, tmp_path / "export")
    assert read_chat_files(tmp_path / "export/client") == ChatFiles("{{ messages[0].content }}", {"eos_token": "!"})
    assert not list((tmp_path / "export/server").glob("*chat*"))
    make_tokenizer("bpe:257", ["aa aa"]).save(vendor / "tokenizer.json")  # another tokenizer there now has nothing to say of this one
    export_model(checkpoint, tmp_path / "export")
    assert read_chat_files(tmp_path / "export/client") == ChatFiles()


def test_altered_export_is_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    export_model(checkpoint, tmp_path)
    program = tmp_path / "client/program.json"
    program.write_bytes(program.read_bytes().replace(b'"fraction_bits": 18', b'"fraction_bits": 17'))
    with pytest.raises(ValueError, match=r"program\.json"):
        load_description(tmp_path / "client")


def test_healthy_ffns_are_all_absorbed() -> None:
    architecture = parse("SM2+ScFuFFN")
    rewrites, error = choose_rewrites(arrays(random_model(architecture)), architecture, SHAPE, 18)
    assert rewrites.explicit_ffns == ()
    assert error < 1e-3


def test_ill_conditioned_ffns_fall_back_to_explicit_products() -> None:
    architecture = parse("SM2+ScFuFFN")
    state = arrays(random_model(architecture))
    scales = np.geomspace(1, 0.02, SHAPE.width)
    for layer in range(SHAPE.layers):
        # beta I + W / alpha = diag(scales): no change to the numbers' range, but six of them lose 10 bits each.
        state[f"blocks.{layer}.feed_forward.fused.weight"] = np.diag(scales - state[f"blocks.{layer}.feed_forward.beta"])
        state[f"blocks.{layer}.feed_forward.alpha"] = np.array(1.0)
    absorbed = rounded_error(state, architecture, SHAPE, HUSH, 18)
    rewrites, error = choose_rewrites(state, architecture, SHAPE, 18)
    assert absorbed > ERROR_TOLERANCE
    assert rewrites.explicit_ffns
    assert error < absorbed
    assert error == rounded_error(state, architecture, SHAPE, replace(HUSH, explicit_ffns=rewrites.explicit_ffns), 18)


def test_activations_beyond_fixed_point_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = random_model(parse("SM2+Q"))
    export_model(replace(checkpoint, model=model), tmp_path / "healthy")
    # No weight is large, but squares of squares are.
    feed_forward: Any = model.get_submodule("blocks.0.feed_forward")
    feed_forward.expand.bias.data += 1000
    with pytest.raises(ValueError, match=r"too large for 18 fraction bits, with which products must stay below 2\^26"):
        export_model(replace(checkpoint, model=model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sums_of_a_power_kernel_beyond_what_is_divided_by_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    model = random_model(parse("PS3+R"))
    export_model(replace(checkpoint, model=model), tmp_path / "healthy")
    attention: Any = model.get_submodule("blocks.1.attention")
    attention.query.bias.data += 8
    attention.key.bias.data += 8
    with pytest.raises(ValueError, match=r"The attention weights of a sample prompt sum up to .* times what a private program can divide"):
        export_model(replace(checkpoint, model=model), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_beyond_fixed_point_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    checkpoint.model.embedding.weight.data *= 1e6
    with pytest.raises(ValueError, match="too large for 18 fraction bits"):
        export_model(checkpoint, tmp_path)
    assert not (tmp_path / "server").exists()
