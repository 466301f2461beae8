"""Prices of prepared answers without the engine: sums, batches, lengths, and one whole run that was counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hushlm.architectures import REGISTRY, Architecture, parse
from hushlm.cli.main import main
from hushlm.config import ModelShape
from hushlm.cost import LAN, WAN, price, price_generation, price_prepared
from hushlm.cost.constants import load_constants
from hushlm.cost.exchange import Exchange
from hushlm.cost.prepared.calls import calls_with
from hushlm.cost.prepared.offline import OfflineKind, material_bytes, offline_calls
from hushlm.cost.prepared.online import online_steps
from hushlm.cost.prepared.online_bytes import online_bytes
from hushlm.cost.prepared.online_constants import CalibratedOnline, load_online_constants
from hushlm.cost.primitives import Primitives
from hushlm.cost.records import TRUST, records
from hushlm.cost.stocks import Session
from hushlm.plan import PUBLISHED, ProtocolSettings, Reveal, decode_plan, prefill_plan
from hushlm.plan.needs import answer_needs
from hushlm.private.client.estimate import estimate
from hushlm.private.program.description import describe
from hushlm.recommended import RECOMMENDED

SHAPE = ModelShape(layers=6, heads=2, width=32, context=64, vocabulary=96)
GPT2 = ModelShape(layers=12, heads=12, width=768, context=160, vocabulary=50_257)
PRIMITIVES = Primitives(load_constants().values, ProtocolSettings())


def test_offline_is_what_a_whole_run_counted() -> None:
    """Two answers of 2 tokens, Hush-S at GPT-2 small's scale: `python benchmarks/prepared.py --model Hush-S --networks lan,wan
    --without_today --cold --new_tokens 2`."""
    model, answers = RECOMMENDED["Hush-S"], 2
    needs = answer_needs(parse(model.architecture), replace(model.shape, context=160), 128, 2)
    session = Session(PRIMITIVES)
    made = sum((session.run(call) for _, call in offline_calls(needs, answers, PRIMITIVES)), Exchange())
    assert made.total_bytes == pytest.approx(answers * 937_212_065.5, rel=0.0005)
    assert made.forward_messages + made.back_messages == answers * 5549
    assert max(material_bytes(needs)) == 133_660_572


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_every_architecture_has_a_price_and_its_parts_add_up(architecture: Architecture) -> None:
    found = price_prepared(architecture, SHAPE, 40, 3)
    assert found.prompt_bucket == 64
    assert len(found.passes) == 3
    assert found.online.bytes == sum(report.total.bytes for report in found.passes)
    assert found.offline.bytes == pytest.approx(sum(amount.bytes for amount in found.offline_by_kind.values()), abs=8)
    assert found.online.bytes < price_generation(architecture, SHAPE, 40, 3).total.bytes
    assert min(found.offline.cpu_seconds, found.online.cpu_seconds, found.kept_client_bytes, found.kept_server_bytes) > 0
    assert found.passes[0].total.bytes == pytest.approx(
        sum(step.amount.bytes for step in found.passes[0].steps), abs=len(found.passes[0].steps)
    )
    json.dumps(found.to_dict())


@pytest.mark.parametrize("architecture", REGISTRY, ids=str)
def test_the_calls_move_what_the_formula_of_bytes_says(architecture: Architecture) -> None:
    calls, reveal = calls_with(load_constants().values, load_online_constants().values, ProtocolSettings()), Reveal(96, "logits")
    opened, again = dict[str, int](), dict[str, int]()
    for plan in (prefill_plan(architecture, SHAPE, 32, reveal), decode_plan(architecture, SHAPE, 64, reveal)):
        formula = online_bytes(plan, again)
        for step, exchange in online_steps(plan, opened, calls):
            wanted = formula[step.layer, str(step.name)]
            if not wanted.inverse_roots and step.name != "reveal":
                # Messages are rounded up to whole words.
                assert -1 < exchange.total_bytes - wanted.total <= 8 * (exchange.forward_messages + exchange.back_messages), step
    assert opened == again


def test_a_batch_shares_products_and_an_answer_keeps_the_same() -> None:
    one, eight = (price_prepared(parse("SM2+R"), GPT2, 128, 2, answers=answers) for answers in (1, 8))
    assert eight.offline.cpu_seconds < 0.98 * one.offline.cpu_seconds
    assert eight.offline.bytes < one.offline.bytes
    assert (one.kept_client_bytes, one.online) == (eight.kept_client_bytes, eight.online)
    embedding = OfflineKind.EMBEDDING
    assert eight.offline_by_kind[embedding].cpu_seconds < one.offline_by_kind[embedding].cpu_seconds


def test_networks_change_seconds_alone() -> None:
    lan, wan = (price_prepared(parse("SM2+R"), SHAPE, 40, 2, network=network) for network in (LAN, WAN))
    assert lan.online.bytes == wan.online.bytes
    assert lan.online.seconds < wan.online.seconds
    assert wan.online.seconds - wan.online.compute_seconds > wan.online.rounds * 0.08


def test_a_prompt_is_priced_at_its_bucket_and_material_at_the_longest_prompt_of_it() -> None:
    short, long = (price_prepared(parse("SM2+ScFuFFN"), SHAPE, prompt, 2) for prompt in (20, 32))
    assert short.prompt_bucket == long.prompt_bucket == 32
    assert short.offline == long.offline
    # The second token of the longer one needs another bucket of keys.
    assert short.passes[0].total == long.passes[0].total
    assert short.passes[1].total.bytes < long.passes[1].total.bytes


@pytest.mark.parametrize("reveal", [Reveal(96, "topk", 3), Reveal(96, "logits")], ids=lambda each: each.kind)
def test_what_has_no_prepared_form_is_priced_as_today(reveal: Reveal) -> None:
    found = price_prepared(parse("SM+LN+G"), SHAPE, 40, 1, reveal, PUBLISHED)
    today = price(prefill_plan(parse("SM+LN+G"), SHAPE, 64, reveal, PUBLISHED))
    for mine, other in zip(found.passes[0].steps, today.steps, strict=True):
        if mine.operation in ("normalise", "activate") or (mine.operation == "reveal" and reveal.kind == "topk"):
            assert mine.amount.bytes == pytest.approx(other.amount.bytes, rel=0.05), mine.step.name


def test_nothing_is_prepared_for_what_cannot_be_answered() -> None:
    with pytest.raises(ValueError, match="prepare at least one"):
        price_prepared(parse("SM"), SHAPE, 40, 1, answers=0)
    with pytest.raises(ValueError, match="Nothing can be prepared"):
        price_prepared(parse("SM"), SHAPE, 40, 64)


def test_constants_survive_their_file() -> None:
    kept = load_online_constants()
    assert CalibratedOnline.from_json(kept.to_json()) == kept
    assert kept.machine
    assert kept.residuals


def test_records_say_whom_they_trust_and_where_they_come_from() -> None:
    found = records()
    for record in found:
        assert all((record.system, record.trust, record.model, record.source, record.hardware)), record
        assert record.seconds > 0
    ours = [record for record in found if record.system.startswith("Hush")]
    assert ours
    assert all(record.trust == TRUST and "predicted" in record.source for record in ours)
    assert {record.trust for record in found} > {TRUST}


def test_the_command_shows_every_phase(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["SM2+R", "--layers", "2", "--heads", "2", "--width", "32", "--context", "64", "--vocab", "96", "--prompt", "20"]
    assert main(["cost", *words, "--new-tokens", "2", "--answers", "4", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)["prepared"]
    assert (document["prompt_bucket"], document["answers"], document["new_tokens"]) == (32, 4, 2)
    phases = {row["phase"]: row for row in document["phases"]}
    online = {"set-up to answer", "online, first token", "online, last further token", "online, 2 tokens"}
    assert set(phases) == {
        "today, first token", "today, last further token", "today, 2 tokens", "offline, an answer",
        *online, *(f"{phase}, --network wan" for phase in online),
    }  # fmt: skip
    fewest, wan = (phases[f"online, first token{forms}"] for forms in ("", ", --network wan"))
    assert wan["bytes"] > fewest["bytes"], "over a WAN more bytes for fewer round trips"
    assert wan["seconds_wan"] < fewest["seconds_wan"]
    assert phases["online, 2 tokens"]["bytes"] == document["online"]["bytes"]
    assert phases["online, first token"]["seconds_lan"] < phases["online, first token"]["seconds_wan"]
    assert main(["cost", *words]) == 0
    text = capsys.readouterr().out
    assert "Prepared answers beside today's pass" in text
    assert "8 answers together" in text


def test_a_context_without_room_has_no_prepared_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "SM2+R", "--context", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prepared"] is None


def test_the_records_stand_beside_the_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "--against", "paper", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {row["system"] for row in document["records"]} >= {"SIGMA", "PUMA", "BumbleBee"}
    assert main(["cost", "--against", "paper"]) == 0
    assert "Records of private inference" in capsys.readouterr().out


def test_a_client_s_estimate_is_the_price_of_the_passes() -> None:
    described = describe(parse("SM2+R"), SHAPE)
    found, today = (estimate(described, 40, 3, network=LAN, prepared=prepared) for prepared in (True, False))
    price_of = price_prepared(parse("SM2+R"), SHAPE, 40, 3, network=LAN)
    assert found.bytes == price_of.online.bytes < today.bytes
    assert found.set_up_bytes == price_of.set_up.bytes
    assert 0 < found.seconds_done(1, 3) < found.seconds
    assert found.messages == price_of.online.messages
