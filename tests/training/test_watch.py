"""The entropy watch speaks when a run diverges, and only then."""

from __future__ import annotations

import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hushlm.training import Divergence, EntropyWatch
from hushlm.training.watch import COLLAPSED_SHARE, PATIENCE_RECORDS

HEALTHY = [2.0] * 6
COLLAPSED = [2.0, 2.0, 1.0, 0.01, 0.0, 0.0]


def test_not_finite_names_layers_and_since_when() -> None:
    watch = EntropyWatch(128, 256)
    watch.record(10, 3.0, HEALTHY)
    watch.record(20, 3.0, [2.0, 2.0, 2.0, 2.0, 0.0, 0.0])
    watch.record(30, 3.5, [2.0, 0.0, 2.0, 2.0, 0.01, 0.0])
    with pytest.raises(Divergence) as caught:
        watch.check(33, math.nan, 1.0, [])
    divergence = caught.value
    assert divergence.step == 33
    assert divergence.layers == (1, 4, 5)
    assert "update 33: the loss is nan" in str(divergence)
    assert "layers 1 and 4-5 (of 6, counted from 0)" in str(divergence)
    assert "since step 20, 13 steps" in str(divergence)


def test_a_recovered_layer_is_not_named() -> None:
    watch = EntropyWatch(128, 256)
    watch.record(10, 3.0, [2.0, 0.0])
    watch.record(20, 3.0, [2.0, 1.0])
    with pytest.raises(Divergence, match="no layer's") as caught:
        watch.check(21, math.inf, 1.0, [])
    assert caught.value.layers == ()


def test_layers_that_are_nan_by_now_keep_their_last_word() -> None:
    watch = EntropyWatch(128, 256)
    watch.record(10, 3.0, [2.0, 2.0, 0.0])
    with pytest.raises(Divergence) as caught:
        watch.check(12, math.nan, math.nan, [2.0, math.nan, math.nan])
    assert caught.value.layers == (2,)
    assert "layers 1-2" in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "norm", "entropies"), [(math.nan, 1.0, []), (-math.inf, 1.0, []), (1.0, math.inf, []), (1.0, 1.0, [1.0, math.nan])]
)
def test_anything_not_finite_stops(loss: float, norm: float, entropies: list[float]) -> None:
    with pytest.raises(Divergence):
        EntropyWatch(128, 256).check(1, loss, norm, entropies)


def test_finite_passes() -> None:
    EntropyWatch(128, 256).check(1, 1e30, 1e30, HEALTHY)


def test_collapse_with_a_blown_up_loss_stops_after_patience() -> None:
    watch = EntropyWatch(128, 256)
    for step in range(0, 50, 10):
        watch.record(step, 5.5 - step / 20, HEALTHY)
    for number in range(PATIENCE_RECORDS - 1):
        watch.record(50 + 10 * number, 40.0, COLLAPSED)
    with pytest.raises(Divergence, match="blew up to 40") as caught:
        watch.record(100, 40.0, COLLAPSED)
    assert caught.value.layers == (3, 4, 5)


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([(40.0, HEALTHY)] * 50, id="a loss that blew up with attention intact may heal"),
        pytest.param([(3.0, COLLAPSED)] * 50, id="a model that learns with one-hot deep layers is healthy"),
        pytest.param([(40.0, COLLAPSED), (3.0, HEALTHY)] * 50, id="spikes that heal"),
        pytest.param([(40.0, [0.0, 0.0, 0.0, 2.0, 2.0, 2.0])] * 50, id="shallow layers only"),
    ],
)
def test_no_false_alarm(records: list[tuple[float, list[float]]]) -> None:
    watch = EntropyWatch(128, 256)
    watch.record(1, 5.5, HEALTHY)
    watch.record(2, 3.0, HEALTHY)
    for step, (loss, entropies) in enumerate(records):
        watch.record(step + 3, loss, entropies)


def test_a_run_that_starts_bad_is_given_time() -> None:
    watch = EntropyWatch(128, 256)
    for step in range(50):
        watch.record(step, 60.0 - step, COLLAPSED)


@given(st.lists(st.tuples(st.floats(0.1, 5.5), st.lists(st.floats(0, 4.8), min_size=4, max_size=4)), max_size=60))
def test_never_stops_below_uniform_guessing(records: list[tuple[float, list[float]]]) -> None:
    watch = EntropyWatch(128, 256)  # log 256 = 5.545
    for step, (loss, entropies) in enumerate(records):
        watch.record(step, loss, entropies)


def test_threshold_is_a_share_of_log_context() -> None:
    limit = COLLAPSED_SHARE * math.log(64)
    watch = EntropyWatch(64, 256)
    watch.record(1, 1.0, [limit * 1.01, limit * 0.99])
    with pytest.raises(Divergence) as caught:
        watch.check(2, math.nan, 0.0, [])
    assert caught.value.layers == (1,)


def test_divergence_survives_the_way_from_a_worker_process() -> None:
    divergence = Divergence(3, [1], "why")
    divergence.metrics = [{"step": 1}]
    copy = pickle.loads(pickle.dumps(divergence))
    assert (copy.step, copy.layers, copy.reason, copy.metrics) == (3, (1,), "why", [{"step": 1}])
    assert str(copy) == "why"
