"""The contest: what a trial may be, what it is compared at, that it goes on where it was, and that names follow the validation split."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra frontier is not installed")

import optuna

from hushlm.architectures import parse
from hushlm.cli.main import main
from hushlm.config import RunConfig
from hushlm.cost import price
from hushlm.experiments import scales
from hushlm.experiments.contest import contest as contest_module
from hushlm.experiments.contest import seconds as seconds_module
from hushlm.experiments.contest.contest import Contest
from hushlm.experiments.contest.contest_page import read_contest
from hushlm.experiments.contest.contest_rows import (
    ablation_rows,
    baseline_rows,
    changes_of,
    finalist_rows,
    stability_rows,
    without_twins,
)
from hushlm.experiments.contest.models import MODELS
from hushlm.experiments.contest.objective import compares_nothing, costs_of
from hushlm.experiments.contest.roles import explained, roles
from hushlm.experiments.contest.search import Search, Trial
from hushlm.experiments.contest.space import start, starts, suggest
from hushlm.experiments.equivalent import equivalent, prepared_at
from hushlm.experiments.experiment import Row, with_changes
from hushlm.experiments.launch import Workers
from hushlm.experiments.runs import RunRecord, run
from hushlm.experiments.scales import BASELINE, CONTEST_SCALES, ContestScale
from hushlm.experiments.study import RowOutcome
from hushlm.files import write_atomic
from hushlm.plan import Activate, Kernel, prefill_plan
from hushlm.recommended import RECOMMENDED, Recommendation
from hushlm.shapes import GPT2_SMALL, proportional

Tiny = Callable[..., RunConfig]
HERE = Workers("local", 1)


@pytest.fixture
def scale(tiny: Tiny) -> ContestScale:
    base = tiny(BASELINE, shape={"layers": 2, "heads": 2, "width": 16}, training={"steps": 8, "warmup_steps": 2})
    return replace(
        CONTEST_SCALES["micro"],
        base=base,
        search_steps=4,
        trials=3,
        layers=(2, 4),
        heads=(1, 2),
        widths=(16,),
        ffn_multiples=(1, 4),
        learning_rates=(1e-2, 2e-2),
        seeds=2,
        evaluation_batches=2,
        stability_layers=(2, 3),
        stability_rates=(1e-2,),
        stability_steps=3,
    )


def trial(number: int, architecture: str, loss: float, amount: int, base: RunConfig, **changes: Any) -> Trial:
    config = with_changes(
        replace(base, architecture=architecture), tuple((name.replace("__", "."), value) for name, value in changes.items())
    )
    return Trial(number, config, loss, (float(amount),), {})


@pytest.mark.parametrize("name", ["micro", "small", "micro-online", "small-online"])
def test_every_start_and_many_draws_are_models_with_a_price(name: str) -> None:
    scale = CONTEST_SCALES[name]
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    for values in starts(scale.name):
        study.enqueue_trial(start(values, scale))
    kernels = set()
    for _ in range(len(starts(scale.name)) + 60):
        asked = study.ask()
        config = suggest(asked, scale)
        assert RunConfig.from_dict(config.to_dict()) == config
        assert config.training.steps == scale.search_steps
        kernels.add(config.parsed_architecture.kernel_order)
        model = equivalent(config, scale)
        assert model.shape.head_width * model.shape.heads == model.shape.width
        assert model.bytes == price(prefill_plan(config.parsed_architecture, model.shape, 128)).total.bytes
        study.tell(asked, [0.0, 0.0])
    assert kernels == ({None, 1, 2, 3} if scale.objective == "bytes" else {None, 2, 3})


def test_the_first_start_is_the_baseline_and_stands_for_gpt2_small() -> None:
    scale = CONTEST_SCALES["micro"]
    config = suggest(optuna.trial.FixedTrial(start(starts("micro")[0], scale)), scale)  # type: ignore[arg-type]
    assert config == replace(scale.base, training=replace(scale.base.training, steps=scale.search_steps, evaluate_every=scale.search_steps))
    assert equivalent(config, scale).shape == GPT2_SMALL
    assert equivalent(config, scale).parameters == pytest.approx(124.4e6, rel=0.01)
    half = replace(config, shape=replace(config.shape, heads=2, layers=8))
    assert (equivalent(half, scale).shape.heads, equivalent(half, scale).shape.layers) == (6, 16)
    odd = replace(scale, base=replace(config, shape=replace(config.shape, layers=7)))
    with pytest.raises(ValueError, match=r"6 layers of 7 correspond to 10\.2857 of 12"):
        equivalent(config, odd)


@pytest.mark.parametrize("name", CONTEST_SCALES)
def test_a_named_point_is_itself_at_every_scale(name: str) -> None:
    scale = CONTEST_SCALES[name]
    for point in (*RECOMMENDED.values(), *MODELS):
        config = with_changes(replace(scale.base, architecture=point.architecture), point.changes(scale.base.shape))
        assert equivalent(config, scale).shape == point.shape
    assert proportional(6, 12, 4, "heads") == 2


def test_finalists_are_the_best_below_each_cap(scale: ContestScale) -> None:
    base = scale.base
    trials = [
        trial(0, BASELINE, 1.0, 4_270_000_000, base),
        trial(4, "SM2+LN+R", 1.35, 1_550_000_000, base),
        trial(1, "SM2+R", 1.3, 1_500_000_000, base, shape__heads=1, training__optimiser="muon"),
        trial(2, "SM1+ScFuFFN", 1.6, 700_000_000, base),
        trial(3, "SM1+R", 1.4, 900_000_000, base, training__learning_rate=0.3),
    ]
    rows = finalist_rows(trials, scale)
    assert [row.architecture for row in rows] == ["SM1+ScFuFFN", "SM1+R", "SM2+R"]
    assert rows[1].changes == ()  # learning rates are swept for all alike
    assert dict(rows[2].changes) == {"shape.heads": 1, "training.optimiser": "muon"}
    assert [(row.architecture, dict(row.changes)) for row in baseline_rows(rows, trials)] == [
        (BASELINE, {}),
        (BASELINE, {"training.optimiser": "muon"}),
    ]


def test_in_seconds_finalists_are_sought_over_both_networks_and_without_comparisons(scale: ContestScale) -> None:
    online, base = replace(scale, objective="online"), scale.base
    free = "PS3(th,qk)+LN+B"

    def timed(number: int, architecture: str, loss: float, lan: float, wan: float) -> Trial:
        return replace(trial(number, architecture, loss, 0, base), costs=(lan, wan))

    trials = [
        timed(0, BASELINE, 1.0, 5, 50),
        timed(1, "SM2+R", 1.5, 7, 90),
        timed(2, "SM2+LN+R", 1.2, 30, 100),
        timed(3, free, 1.4, 14, 70),
        timed(4, "PS2(qk)+LN+Q", 1.6, 16, 55),
        timed(5, "SM3+R", 1.1, float("inf"), float("inf")),  # too much work before the prompt
        timed(6, "PS3(th,qk)+LN+R", 1.3, 13, 58),
    ]
    found = {row.trial for row in finalist_rows(trials, online)}
    # Below 8 s 1, below 15 s 6, below 35 s 2, below 60 s over the WAN 6; of those that compare nothing 3 and 4.
    assert found == {1, 2, 3, 4, 6}


@pytest.mark.parametrize(
    ("name", "free"),
    [("PS3(th,qk)+LN+B", True), ("PS2+LN+Q", True), ("PS3+ScFuFFN", True), ("PS3(th,qk)+LN+R", False), ("SM2+LN+Q", False)],
)
def test_what_compares_nothing_has_no_comparison_in_its_plan(name: str, free: bool) -> None:
    """By the plan itself: what is compared inside a layer are row maxima and activations."""
    architecture = parse(name)
    assert compares_nothing(architecture) is free
    plan = prefill_plan(architecture, GPT2_SMALL, 128)
    compared = [
        step.operation
        for step in plan.steps
        if isinstance(step.operation, Kernel) or (isinstance(step.operation, Activate) and step.operation.kind != "square")
    ]
    assert bool(compared) is not free


def test_costs_in_seconds_are_the_price_list_s() -> None:
    scale = CONTEST_SCALES["small-online"]
    config = replace(scale.base, architecture="PS3(th,qk)+LN+Q")
    price_there = prepared_at(config.parsed_architecture, GPT2_SMALL)
    assert costs_of(config, scale) == (price_there.online_seconds_lan, price_there.online_seconds_wan)
    heavy = with_changes(config, (("shape.width", 384), ("shape.ffn_multiple", 6)))
    assert costs_of(heavy, scale) == (float("inf"), float("inf"))
    assert costs_of(config, CONTEST_SCALES["small"]) == (equivalent(config, scale).bytes,)


def test_an_ablation_puts_one_thing_back(scale: ContestScale) -> None:
    row = Row("EReg(SM1(th)+R)", (("shape.heads", 1), ("training.init_std", 0.028), ("entropy.weight", 0.3)), retuned=True)
    rows = ablation_rows(row, 0.01, scale)
    assert {each.architecture for each in rows} == {
        "EReg(SM(th)+R)",
        "EReg(SM1(th)+G)",
        "EReg(SM1(th)+LN+R)",
        "EReg(SM1+R)",
        "SM1(th)+R",
        "EReg(SM1(th)+R)",
    }
    assert "SM1+R2" in {each.architecture for each in ablation_rows(Row("SM1+LN+R2"), 0.01, scale)}
    for each in rows:
        config = with_changes(replace(scale.base, architecture=each.architecture), each.changes)
        missing = {name for name, _ in row.changes} - {name for name, _ in changes_of(config, scale.base)}
        assert len(missing) + (each.architecture != row.architecture) == 1
        assert each.rate == 0.01


def test_the_map_has_every_depth_and_rate_once(scale: ContestScale) -> None:
    rows = stability_rows(Row("SM2+R", (("shape.heads", 1), ("shape.layers", 4))), scale)
    assert len({(row.architecture, row.changes, row.rate) for row in rows}) == len(rows) == 5 * 2
    for row in rows:
        config = with_changes(replace(scale.base, architecture=row.architecture), row.changes)
        assert config.training.clip_norm is None
        assert config.training.steps == scale.stability_steps


@pytest.mark.slow
def test_a_search_that_was_cut_off_ends_as_one_that_was_not(scale: ContestScale, tmp_path: Path) -> None:
    whole = Search(scale, tmp_path / "whole")
    assert [count for count, _ in whole.run(3, HERE)] == [1, 2, 3]

    cut = Search(scale, tmp_path / "cut")
    first = cut.run(3, HERE)
    assert next(first)[0] == 1
    assert isinstance(first, Generator)
    first.close()
    # A process that died while two trials were under way.
    for _ in range(2):
        suggest(cut._study.ask(), scale)
    again = Search(scale, tmp_path / "cut")
    assert len(again.trials()) == 1
    list(again.run(3, HERE))

    def found(search: Search) -> list[tuple[str, float, float]]:
        return sorted((each.config.architecture, each.loss_nats, each.costs[0]) for each in search.trials())

    assert found(again) == found(whole)
    assert list(again.run(3, HERE)) == []  # nothing is left to do


@pytest.mark.slow
def test_from_the_search_to_the_page(
    scale: ContestScale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(scales.CONTEST_SCALES, "micro", scale)
    # In this process: a new one for every stage would take longer than the runs.
    monkeypatch.setattr(Workers, "make", lambda self, study, jobs: [run(job) for job in jobs])
    monkeypatch.setattr(contest_module, "added_rows", lambda scale: [])
    monkeypatch.setattr(contest_module, "grown_rows", lambda scale: [Row("SM2+R", label="at another scale", rate=1e-2)])
    monkeypatch.setattr(contest_module, "stability_rows", lambda row, scale: stability_rows(row, scale)[:3])
    monkeypatch.setattr(contest_module, "regulariser_rows", lambda scale: [Row(name, rate=1e-2) for name in ("SM2+R", "EReg(SM2+R)")])
    options = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path), "--pages", str(tmp_path / "pages"), "--parallel", "1"]
    assert main(["frontier", "run", "--trials", "3", *options]) == 0
    printed = capsys.readouterr()
    assert "3/3 trials" in printed.err
    document = json.loads((tmp_path / "frontier-micro.json").read_text())
    assert document["search"]["trials"] == 3
    baseline = next(point for point in document["points"] if point["architecture"] == BASELINE and not point["label"])
    for point in document["points"]:
        assert len(point["perplexity_by_seed"]) == len(point["relative_by_seed"]) == 2
        assert point["relative_to_baseline"] == pytest.approx(
            sum(point["perplexity_by_seed"]) / sum(baseline["perplexity_by_seed"]), rel=1e-9
        )
    assert any("L" in point["role"] for point in document["points"])
    assert [row["label"] for row in document["grown"]] == ["at another scale"]
    alone, taught = document["distillation"][:2]
    assert taught["label"] == f"{alone['label']}, distilled"
    assert taught["perplexity_by_seed"] != alone["perplexity_by_seed"]
    assert str(tmp_path / "runs") not in (tmp_path / "frontier-micro.json").read_text()
    page = (tmp_path / "pages" / "frontier-micro.md").read_text()
    for picture in ("frontier-micro.png", "frontier-micro-seconds.png", "frontier-micro-stability.png"):
        assert picture in page
        assert (tmp_path / "pages" / picture).read_bytes()[:4] == b"\x89PNG"

    # From the JSON alone, the same page; a search of no further trial, and no run. A file from before there were seconds gets them.
    of_seconds = ("online_bytes", "online_seconds_lan", "online_seconds_wan", "offline_cpu_seconds")
    assert all(row[key] > 0 for row in (*document["points"], *document["grown"]) for key in of_seconds)
    older = {**document, "points": [{key: row[key] for key in row if key not in of_seconds} for row in document["points"]]}
    for kept in (document, older):
        write_atomic(tmp_path / "frontier-micro.json", json.dumps(kept))
        assert main(["frontier", "run", "--from-results", *options[2:4], "--pages", str(tmp_path / "again")]) == 0
        assert (tmp_path / "again" / "frontier-micro.md").read_text() == page
        assert json.loads((tmp_path / "frontier-micro.json").read_text()) == document
    finals = Contest(scale, tmp_path / "runs" / "micro", None, lambda study, jobs: pytest.fail(f"{len(jobs)} runs made again")).finals()
    assert set(roles(finals, scale)) >= {"L"}

    # With what is finished: the same, or as many rows as there are.
    before = (tmp_path / "frontier-micro.json").read_bytes()
    with monkeypatch.context() as forbidden:
        forbidden.setattr(Workers, "make", lambda *_: pytest.fail("a run was made"))
        assert main(["frontier", "run", "--trials", "3", *options, "--finished"]) == 0
        assert (tmp_path / "frontier-micro.json").read_bytes() == before
        of_the_map = [path for path in (tmp_path / "runs").rglob("record.json") if '"clip_norm": null' in path.read_text()]
        shutil.rmtree(of_the_map[0].parent)
        assert main(["frontier", "run", "--trials", "3", *options, "--finished", "--results", str(tmp_path / "fewer")]) == 0
        fewer = json.loads((tmp_path / "fewer" / "frontier-micro.json").read_text())
        assert len(fewer["stability"]) == len(document["stability"]) - 1
        assert fewer["points"] == document["points"]
        assert main(["frontier", "run", *options[2:], "--runs", str(tmp_path / "none"), "--stage", "points", "--finished"]) == 2

    # The named points, and the commands that would train them elsewhere.
    point = Recommendation("Hush-X", "a test", "SM2+R", replace(GPT2_SMALL, heads=6))
    for module in (contest_module, seconds_module):
        monkeypatch.setattr(module, "RECOMMENDED", {"Hush-X": point})
    monkeypatch.setattr(contest_module, "models_from", lambda *origins: ())
    points = ["frontier", "run", "--stage", "points", "--seeds", "1", *options[:2], "--results", str(tmp_path / "points")]
    capsys.readouterr()
    assert main([*points, "--commands"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # two rates of the point and of the baseline with Muon
    assert all(line.startswith("torchrun ") for line in lines)
    assert main(points) == 0
    named = json.loads((tmp_path / "points" / "frontier-micro.json").read_text())
    assert {point["name"] for point in named["points"]} == {"", "Hush-X"}
    assert main(["frontier", "run", "--commands"]) == 2
    assert main(["frontier", "run", "--preset", "paper"]) == 2
    assert "at least 1, or --stage points" in capsys.readouterr().err
    document["points"][0]["bytes_gpt2_small"] = "many"
    write_atomic(tmp_path / "frontier-micro.json", json.dumps(document))
    with pytest.raises(ValueError, match="does not hold a contest"):
        read_contest(tmp_path / "frontier-micro.json")


def outcome(architecture: str, validation: float | None, base: RunConfig, **shape: Any) -> RowOutcome:
    """A finished row with one seed; its test perplexity would choose otherwise."""
    config = replace(base, architecture=architecture, shape=replace(base.shape, **shape))
    record = RunRecord(
        architecture=architecture,
        settings=config.to_dict(),
        corpus={},
        stopped_at_step=None,
        collapsed_layers=[],
        reason="",
        validation_perplexity=validation,
        test_perplexity=1 / validation if validation else None,
        head_entropy_nats=None,
        course={},
        thresholds=None,
        cpu_seconds=None,
        versions={},
    )
    return RowOutcome(Row(architecture), 1e-2, {}, (record,), 1)


def test_roles_go_by_validation_and_bytes(scale: ContestScale) -> None:
    base = scale.base
    baseline = outcome(BASELINE, 6.0, base)
    fused, narrow = outcome("SM1+ScFuFFN", 6.5, base), outcome("SM1+R", 6.0, base, heads=1)
    wide, stopped = outcome("SM2+R", 5.5, base), outcome("SM1+ScFuFFN", None, base, heads=1)
    assert roles([baseline, stopped, wide, narrow, fused], scale) == {"S": fused, "M": narrow, "L": wide}
    assert roles([baseline, fused], scale) == {"S": fused, "L": fused}


def test_what_is_explained_is_the_search_s(scale: ContestScale) -> None:
    """A cheaper model added by hand does not take the tables of why with it."""
    baseline = outcome(BASELINE, 6.0, scale.base)
    added, searched = outcome("SM1+R", 5.0, scale.base, heads=1), outcome("SM2+R", 5.5, scale.base)
    worse = replace(searched, row=replace(searched.row, label="trial 3", trial=3), runs=outcome("SM2+R", 7.0, scale.base).runs)
    better = replace(searched, row=replace(searched.row, label="trial 7, Hush-X", trial=7))
    assert explained([baseline, added, worse, better], scale) is better
    assert explained([baseline, added, worse], scale) is worse  # above the limit, and the best there is
    assert explained([baseline, added, searched], scale) is added


def test_the_same_model_twice_is_one_row() -> None:
    first = Row("SM2+R", (("shape.heads", 1), ("training.optimiser", "muon")), "trial 3", retuned=True)
    again = replace(first, changes=first.changes[::-1], label="Hush-X")
    other = replace(first, architecture="SM1+R", label="other")
    assert without_twins([first, other, again]) == [replace(first, label="trial 3, Hush-X"), other]


def test_without_its_checkpoint_the_baseline_teaches_nobody(scale: ContestScale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that were made elsewhere came without their checkpoints: a page can be written of them."""
    base = outcome(BASELINE, 6.0, scale.base)
    point = outcome("SM2+R", 5.0, scale.base)
    conducted: dict[str, list[Row]] = {}

    def conduct(self: Contest, name: str, rows: list[Row]) -> None:
        conducted[name] = rows

    monkeypatch.setattr(contest_module, "grown_rows", lambda scale: [])
    monkeypatch.setattr(Contest, "_conduct", conduct)
    list(Contest(scale, tmp_path, None, None).why([base, point], {"M": point}))
    assert conducted["distillation"] == []
    assert conducted["ablation"]


def test_no_optuna_is_one_sentence(scale: ContestScale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hushlm\[frontier\]'"):
        Search(scale, tmp_path)
