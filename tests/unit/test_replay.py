"""A plan's devices simulated: what is played, what is said of it, and traces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from planner.domain.check import check
from planner.domain.latency import CurvePoint
from planner.domain.plan import Plan
from planner.domain.problem import BatchTime, Option, Problem
from planner.domain.trace import Trace
from planner.domain.verification import ModelVerification, Verdict
from planner.errors import InputError
from planner.inputs.trace import read_trace
from planner.simulator.device import poisson, simulate
from planner.simulator.replay import LONGEST, ReplaySettings, replay, stream_of
from planner.verify_table import verification_table
from tests.plans import CPU, placed
from tests.problems import model
from tests.unit.test_verify_run import curve_option


def timed(name: str, **changes: object) -> Option:
    """3 ms a request, 100 req/s at the most."""
    values: dict[str, object] = {"max_batch_size": 1, "batch_time": BatchTime(3_000_000, 0)}
    return curve_option(name, **(values | changes))


def two_devices(**changes: object) -> tuple[Problem, Plan]:
    """a and b on n1/0 at 50 req/s each, c on n1/1 at 100."""
    options = [timed(name, **changes) for name in "abc"]
    asked = {"a": 50_000, "b": 50_000, "c": 100_000}
    models = [model(name, mrps, latency_bound_us=40_000) for name, mrps in asked.items()]
    return placed(options, {"n1/0": ["a@cpu-1", "b@cpu-1"], "n1/1": ["c@cpu-1"]}, kinds=[CPU], models=models)


def simulated(planned: tuple[Problem, Plan] | None = None, **settings: object) -> list[ModelVerification]:
    found = replay(*(planned or two_devices()), ReplaySettings(**settings))  # type: ignore[arg-type]
    assert (found.simulated, found.complete) == (True, True)
    return list(found.models())


def test_a_plan_is_played_at_its_rates() -> None:
    a, b, c = simulated()
    assert [m.verdict for m in (a, b, c)] == [Verdict.MET] * 3
    assert c.simulated is not None
    median, p95, p99 = c.simulated.latencies
    # M/D/1 at 0.3: nothing waits in 70 of 100 cases.
    assert (median.value_ms, c.busy_measured) == pytest.approx((3.0, 0.3), rel=0.02)
    assert (p99.value_ms, p99.low_ms, p99.high_ms) == (c.measured_ms, c.measured_low_ms, c.measured_high_ms)
    assert p95.value_ms < (p99.low_ms or 0) < p99.value_ms < (p99.high_ms or 0)
    assert (c.simulated.throughput_rps, c.simulated.executed_batch_mean) == (pytest.approx(100, rel=0.02), 1.0)
    assert c.completed == pytest.approx(200_000, rel=0.02)
    assert a.measured_ms is not None
    assert c.measured_ms is not None
    assert a.measured_ms > 3.0
    assert a.within == 1.0


def test_what_is_besides_the_device_comes_on_top() -> None:
    with_more = two_devices(batch_time=BatchTime(3_000_000, 0, ((50, 2_000_000),)))
    for bare, more in zip(simulated(requests=20_000), simulated(with_more, requests=20_000), strict=True):
        assert bare.simulated is not None
        assert more.simulated is not None
        for one, other in zip(bare.simulated.latencies, more.simulated.latencies, strict=True):
            assert other.value_ms == pytest.approx(one.value_ms + 2.0)
        assert more.busy_measured == bare.busy_measured


def test_the_seed_alone_decides_whatever_else_is_simulated() -> None:
    planned = two_devices()
    settings = ReplaySettings(requests=5_000, seed=7)
    whole, again = (replay(*planned, settings) for _ in range(2))
    assert whole == again
    assert replay(*planned, settings, devices=["n1/1"]).devices == whole.devices[1:]
    assert simulated(planned, requests=5_000, seed=8) != list(whole.models())


def test_more_than_a_device_can_do_is_missed_and_says_why() -> None:
    a, _, c = simulated(rates="4", factor=4.0, requests=20_000)
    assert (a.verdict, c.verdict) == (Verdict.MISSED, Verdict.MISSED)
    assert "were not answered at the end: the queue grows" in (c.reason or "")
    assert c.within is not None
    assert c.within < 0.2
    assert c.simulated is not None
    assert c.simulated.throughput_rps == pytest.approx(1000 / 3, rel=0.01)


def test_batches_are_those_of_the_configuration() -> None:
    batched = {"max_batch_size": 8, "queue_delay_us": 10_000, "request_batch_size": 2}
    [*_, c] = simulated(two_devices(**batched, batch_time=BatchTime(1_000_000, 1_000_000)), rates="full", factor=None)
    assert c.simulated is not None
    # Four requests of two inferences at the most; after 10 ms one that came with about one more leaves anyway.
    assert 3.5 < (c.simulated.executed_batch_mean or 0) < 5
    assert c.simulated.latencies[-1].value_ms < 10 + 9 + 9
    # No queue delay at all: the server puts nothing together.
    [*_, c] = simulated(two_devices(max_batch_size=8), requests=5_000)
    assert c.simulated is not None
    assert c.simulated.executed_batch_mean == 1.0


def test_too_few_requests_are_unclear_and_a_rare_model_gets_a_longer_window() -> None:
    options = [timed("a"), timed("b")]
    models = [model("a", 100_000, latency_bound_us=40_000), model("b", 1_000, latency_bound_us=40_000)]
    planned = placed(options, {"n1/0": ["a@cpu-1", "b@cpu-1"]}, kinds=[CPU], models=models)
    a, b = simulated(planned, requests=40_000)
    assert (a.verdict, b.verdict) == (Verdict.MET, Verdict.MET)
    a, b = simulated(planned, requests=1_000)
    assert a.completed < 1.1 * LONGEST * 1_000
    assert (a.verdict, b.verdict) == (Verdict.MET, Verdict.UNCLEAR)
    assert "p99 needs 2,000 requests" in (b.reason or "")


def test_what_was_not_measured_cannot_be_simulated() -> None:
    with pytest.raises(InputError, match=r"a: the profile .* does not tell how long a batch of 1 x 1 takes"):
        simulated(two_devices(batch_time=None))


def test_weights_between_classes_slow_executions() -> None:
    deaf = replace(CPU, interference_classes=("x", "y"), kappa_ppm=((0, 0), (0, 0)))
    options = [timed("a"), timed("b", interference_class=1)]
    models = [model(name, 50_000, latency_bound_us=40_000) for name in "ab"]
    planned = placed(options, {"n1/0": ["a@cpu-1", "b@cpu-1"]}, kinds=[deaf], models=models)
    assert check(*planned) == []
    free, shared = simulated(planned)[0], simulated()[0]
    assert free.measured_ms is not None
    assert shared.measured_ms is not None
    assert free.measured_ms < 0.8 * shared.measured_ms


def test_a_promise_holds_where_the_queue_delay_hid_a_wait() -> None:
    """Alone the delay of 2 ms ends after the batch before; beside slow neighbours that batch takes longer."""
    short = timed(
        "a",
        max_batch_size=4,
        queue_delay_us=2_000,
        batch_time=BatchTime(1_692_000, 225_000),
        capacity_mrps=40_000,
        busy_ppm=(72_000,),
    )
    curve = []
    for rate_rps in (40, 120):
        only = stream_of(short, poisson(rate_rps, 2_000.0, np.random.default_rng(0)))
        [alone], _ = simulate([only], [[1.0]], 0.0, 2_000.0)
        curve.append(CurvePoint(rate_rps * 1000, int(np.percentile(alone.latency_s, 99) * 1e6)))
    slow = {"max_batch_size": 8, "queue_delay_us": 0, "busy_ppm": (310_000,), "curve": ()}
    options = [
        replace(short, curve=tuple(curve)),
        timed("b", batch_time=BatchTime(2_700_000, 44_500_000), capacity_mrps=6_600, **slow),
        timed("c", batch_time=BatchTime(8_700_000, 8_400_000), capacity_mrps=18_900, **slow),
    ]
    [a, *_] = simulated(placed(options, {"n1/0": [option.id for option in options]}, kinds=[CPU]), requests=300_000)
    assert a.measured_high_ms is not None
    assert a.predicted_ms is not None
    assert a.measured_high_ms < a.predicted_ms
    # Three times what was not delay, and the delay, would have been too little.
    assert a.measured_low_ms is not None
    assert a.measured_low_ms > 2 + 3 * (curve[-1].latency_us / 1000 - 2)


def test_a_trace_is_played_by_its_times_and_spread_over_replicas() -> None:
    options = [timed("a")]
    planned = placed(options, {f"n1/{i}": ["a@cpu-1"] for i in range(2)}, kinds=[CPU],
                     models=[model("a", 150_000, latency_bound_us=40_000)])  # fmt: skip
    times_s = np.sort(np.random.default_rng(0).uniform(0, 100, 10_000))
    trace = Trace("t.csv", {"a": list(times_s - times_s[0])}, float(times_s[-1] - times_s[0]))
    one, two = simulated(planned, rates="trace", trace=trace)
    assert one.completed + two.completed == 10_000
    assert one.rate_rps == pytest.approx(50, rel=0.1)
    assert one.verdict is Verdict.MET
    # Ten at a time: the last one waits for nine others.
    bursts = Trace("t.csv", {"a": [float(10 * k) for k in range(400) for _ in range(20)]}, 3990.0)
    one, two = simulated(planned, rates="trace", trace=bursts)
    assert one.simulated is not None
    assert one.simulated.latencies[0].value_ms > 9
    assert (one.completed + two.completed) == 8_000


def test_a_trace_names_line_and_column_of_what_does_not_fit(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"

    def read(text: str) -> Trace:
        file.write_text(text)
        return read_trace(file, {"ranker", "tagger"})

    trace = read("model,timestamp,user\nranker,12.5,x\ntagger,11,y\n\nranker,11.5,z\n")
    assert ({name: list(times) for name, times in trace.times_s.items()}, trace.seconds) == (
        {"ranker": [0.5, 1.5], "tagger": [0.0]},
        1.5,
    )
    dated = read("timestamp,model\n2026-05-01T14:00:00,ranker\n2026-05-01T14:00:02.5,ranker\n")
    assert (list(dated.times_s["ranker"]), dated.seconds) == ([0.0, 2.5], 2.5)
    for text, message in {
        "": "t.csv:1: the columns timestamp and model are needed, got nothing",
        "time,model\n": "t.csv:1: the columns timestamp and model are needed, got time, model",
        "timestamp,model\n1,ranker,3\n": "t.csv:2: 2 columns are needed, got 3",
        "timestamp,model\n1,rankr\n": "t.csv:2: model: 'rankr' is not in the plan; did you mean ranker?",
        "timestamp,model\n1,ranker\nnan,ranker\n": "t.csv:3: timestamp: 'nan' is no time",
        "timestamp,model\n1,ranker\n": "t.csv: two requests at different times are the least",
    }.items():
        with pytest.raises(InputError) as caught:
            read(text)
        assert message in str(caught.value)


def test_the_table_of_a_simulation_says_so_and_counts_what_is_well() -> None:
    text = verification_table(replay(*two_devices(), ReplaySettings(requests=5_000)))
    assert "Simulated at planned rates: 3 met, 0 missed, 0 unclear (100.0% of the" in text
    assert "simulated" in text
    assert "measured  " not in text
    assert "within bound" in text
    assert max(map(len, text.splitlines())) <= 80
    many = placed([timed("a")], {f"n1/{i}": ["a@cpu-1"] for i in range(13)}, kinds=[CPU])
    assert "13 more devices keep every bound" in verification_table(replay(*many, ReplaySettings(requests=100)))
