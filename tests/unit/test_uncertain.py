"""Uncertain demand: a mean with a spread, observed rates as periods, and a plan replayed against them."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.build import BuildSettings, Built, build
from planner.cli import run
from planner.domain.check import check_placements
from planner.domain.codec import to_json
from planner.domain.layout import Layout
from planner.domain.observed import Observed, ObservedRates, busy_at
from planner.domain.plan import Placement
from planner.domain.pooling import ceil_root, pooled_ppm
from planner.domain.problem import Problem, Settings, problem_from_json
from planner.domain.replay import replay
from planner.domain.units import PPM
from planner.domain.workload import ModelDemand, Workload
from planner.errors import InputError
from planner.inputs.fleet import fleet_from_counts, known_types
from planner.inputs.observed_rates import read_observed_rates
from planner.inputs.profiles_csv import read_profiles
from planner.inputs.workload import read_workload
from planner.scenarios import MOST_PERIODS, with_observed_periods
from tests.problems import devices, kind, model, option, problem

EXAMPLES = Path(__file__).parents[2] / "examples"
RATES = "time,a,b\n2026-05-01T00:00,10,1\n2026-05-01T01:00,2,20\n"


def test_spreads_of_different_models_pool_and_those_of_one_do_not() -> None:
    assert pooled_ppm([("a", 100, 30), ("b", 100, 40)]) == 70 + 60 + 50
    assert pooled_ppm([("a", 100, 30), ("a", 100, 40)]) == 200
    assert pooled_ppm([("a", 100, 0), ("b", 100, 0)]) == 200
    assert [ceil_root(square) for square in (0, 1, 2, 4, 5, 10**12, 10**12 + 1)] == [0, 1, 2, 2, 3, 10**6, 10**6 + 1]


def test_a_total_is_above_its_pooled_quantile_as_seldom_as_planned() -> None:
    """Four models with means of 0.15 and spreads of 0.0236: simulated, not only computed."""
    rng = random.Random(3)
    swing = round(23_600 * 2.326348)
    limit = pooled_ppm([(name, 150_000 + swing, swing) for name in "abcd"])
    assert limit < 4 * (150_000 + swing)
    above = sum(sum(rng.gauss(150_000, 23_600) for _ in range(4)) > limit for _ in range(40_000))
    assert 0.007 < above / 40_000 < 0.013


def _pooling(**changes: object) -> Problem:
    """Busy 0.45 each, of which 0.2 is swing: 0.25 + 0.25 + 0.283 together."""
    options = [option(name, busy_ppm=(450_000,), swing_ppm=(200_000,)) for name in "ab"]
    return problem([model("a"), model("b")], options, fleet=devices(count=2), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(("threshold", "broken"), [(782_843, False), (782_842, True)])
def test_the_threshold_holds_for_the_pooled_total(threshold: int, broken: bool) -> None:
    subject = _pooling(kinds=[kind(utilization_ppm=threshold)])
    both = tuple(Placement(replica=name, option=f"{name}@big", device="big/0") for name in "ab")
    found = [str(violation) for violation in check_placements(subject, both)]
    assert found == (
        ["gpu-utilization: big/0: busy 0.782843 in period 'all', limit 0.782842"] if broken else []
    )  # fmt: skip


@pytest.mark.parametrize("swing", [(1,), (450_001,), (1, 1)])
def test_a_swing_lies_within_the_busy_time(swing: tuple[int, ...]) -> None:
    if swing == (1,):
        assert option(busy_ppm=(450_000,), swing_ppm=swing).swing(0) == 1
        return
    with pytest.raises(InputError, match="swing"):
        option(busy_ppm=(450_000,), swing_ppm=swing)


def _built(folder: str, level: float | None = None, **changes: object) -> Built:
    workload = replace(read_workload(EXAMPLES / folder / "workload.yaml"), **changes)  # type: ignore[arg-type]
    fleet, _ = fleet_from_counts(["4xL4"], known_types())
    rows = read_profiles(EXAMPLES / folder / "profiles.csv")
    return build(workload, fleet, rows, BuildSettings(settings=Settings(), service_level=level))


def test_demand_is_the_quantile_and_the_swing_what_lies_above_the_mean() -> None:
    subject = _built("uncertain", 0.99).problem
    assert subject.settings.service_level == 0.99
    a = subject.model_by_name["a"]
    assert (a.rate_mrps, a.demand_mrps, a.swing_mrps) == ((60_000,), (108_854,), 48_853)
    share = Fraction(48_853, 108_854)
    for found in subject.options:
        assert found.swing(0) <= share * found.busy_ppm[0] < found.swing(0) + 1
    assert _built("uncertain").problem.model_by_name["a"].demand_mrps == (108_854,)
    assert _built("uncertain", 0.5).problem.model_by_name["a"].demand_mrps == (60_000,)


def test_a_service_level_needs_uncertain_demand() -> None:
    with pytest.raises(InputError, match="--service-level needs uncertain demand, and every rate here is certain"):
        _built("periods", 0.99)


def test_observed_rates_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES)
    assert read_observed_rates(path, ["a", "b", "c"]) == ObservedRates(
        starts=("2026-05-01T00:00", "2026-05-01T01:00"), seconds=(3600.0, 3600.0), names=("a", "b"),
        rates_rps=((10.0, 1.0), (2.0, 20.0)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("time,", "when,", "csv:1: the first column must be time, the others models or ensembles; got when, a, b"),
        ("a,b", "a,a", "csv:1: column 'a' stands twice"),
        ("a,b", "a,bb", "csv:1: column 'bb' is no model or ensemble of the workload; did you mean b?"),
        ("2,20", "2", "csv:3: 3 columns are needed, got 2"),
        ("2,20", "2,", "csv:3: b: must be requests per second >= 0, got ''"),
        ("2,20", "2,-1", "csv:3: b: must be requests per second >= 0, got '-1'"),
        ("T01:00", "T00:00", "csv:3: time 2026-05-01T00:00 is not after the one before it"),
        ("2026-05-01T01:00", "noon", "csv:3: time: 'noon' is no time; write 2026-05-01T14:00 or a number of seconds"),
        ("2026-05-01T01:00,2,20\n", "", "csv: two rows of rates are the least, so that a step has a length; got 1"),
    ],
)
def test_a_mistake_in_observed_rates_is_named(tmp_path: Path, old: str, new: str, error: str) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        read_observed_rates(path, ["a", "b"])
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("models: [{name: a, rate_rps: 3}, {name: b}]", "models[0].rate_rps: 'a' has a column in rates.csv too"),
        ("models: [{name: a}]", "observed_rates: "),
        ("models: [{name: a, rate_rps: 1, uncertain_rate: {mean_rps: 1, spread_rps: 1}}, {name: b}]",
         "models[0].uncertain_rate: give one of rate_rps, rates_rps and uncertain_rate"),
        ("models: [{name: a, uncertain_rate: {mean_rps: 1}}, {name: b}]",
         "models[0].uncertain_rate.spread_rps: is missing"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_workload_is_named(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "rates.csv").write_text(RATES)
    (tmp_path / "workload.yaml").write_text(f"schema_version: 1\n{text}\nobserved_rates: rates.csv\n")
    with pytest.raises(InputError) as caught:
        read_workload(tmp_path / "workload.yaml")
    assert error in str(caught.value)


def test_periods_of_the_day_and_observed_ones_exclude_each_other() -> None:
    observed = ObservedRates(starts=("0", "1"), seconds=(1, 1), names=("a",), rates_rps=((1,), (2,)))
    workload = Workload(models=(ModelDemand(name="a"), ModelDemand(name="b", rates_rps={"day": 1})))
    with pytest.raises(InputError, match="'b' has rates_rps by period, but observed_rates makes the periods"):
        with_observed_periods(workload, observed, 0.9)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 120), st.integers(1, 4), st.sampled_from([0.5, 0.9, 0.99]), st.randoms(use_true_random=False))
def test_periods_cover_the_service_level(steps: int, count: int, level: float, rng: random.Random) -> None:
    names = tuple("abcd"[:count])
    rates = tuple(tuple(float(rng.randint(0, 50)) for _ in names) for _ in range(steps))
    seconds = tuple(float(rng.randint(1, 5)) for _ in rates)
    observed = ObservedRates(starts=tuple(map(str, range(steps))), seconds=seconds, names=names, rates_rps=rates)
    workload = with_observed_periods(Workload(models=tuple(ModelDemand(name=n) for n in names)), observed, level)
    periods = [[(m.rates_rps or {})[p] for m in workload.models] for p in workload.periods]
    covered = [any(all(r <= m for r, m in zip(step, most, strict=True)) for most in periods) for step in rates]
    assert sum(s for s, held in zip(seconds, covered, strict=True) if held) >= level * sum(seconds) - 1e-6
    assert len(periods) <= MOST_PERIODS


def test_busy_time_at_an_observed_rate_is_never_too_low() -> None:
    assert busy_at((500, 100), (1000, 100), 100) == 100
    assert busy_at((500, 100), (1000, 100), 101) == 500
    assert busy_at((500, 100), (1000, 100), 1500) == 750
    assert busy_at((500,), (0,), 0) == 500
    assert busy_at((500,), (0,), 1) == PPM


def _replayed(rates: tuple[tuple[int, ...], ...], **changes: object) -> tuple[float, dict[tuple[str, str], float]]:
    options = [option(name, busy_ppm=(500_000, 100_000), **changes) for name in "ab"]
    options[1] = replace(options[1], busy_ppm=(100_000, 500_000))
    models = [model("a", (1000, 200)), model("b", (200, 1000))]
    observed = Observed(starts=("0", "1", "2"), seconds=(60, 60, 120), models=("a", "b"), rates_mrps=rates)
    subject = problem(models, options, periods=("day", "night"), observed=observed)
    both = tuple(Placement(replica=name, option=f"{name}@big", device="big/0") for name in "ab")
    assert check_placements(subject, both) == []
    assert problem_from_json(json.loads(json.dumps(to_json(subject))), "problem") == subject
    found = replay(Layout(subject, both), observed)
    return found.share, dict(found.broken_s)


def test_replay_says_which_rule_did_not_hold_and_how_long() -> None:
    quiet = (200, 1000)
    assert _replayed((quiet, (1000, 200), quiet)) == (1.0, {})
    assert _replayed((quiet, quiet, (1001, 200))) == (0.5, {("demand", "a"): 120.0})
    assert _replayed((quiet, (1000, 1000), quiet)) == (0.75, {("gpu-utilization", "big/0"): 60.0})
    assert _replayed((quiet, (1200, 200), quiet), tolerance_ppm=500_000) == (
        0.75, {("demand", "a"): 60.0, ("latency", "b"): 60.0},
    )  # fmt: skip


def test_check_fails_where_a_plan_holds_for_less_than_was_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = EXAMPLES / "observed"
    files = ["--workload", str(folder / "workload.yaml"), "--profiles", str(folder / "profiles.csv")]
    assert run(["solve", *files, "--gpus", "3xL4", "-o", str(tmp_path)]) == 0
    assert run(["check", str(tmp_path)]) == 0
    assert "Replayed: every rule held in 99.40% of 168 observed hours; planned for 0.99." in capsys.readouterr().out
    text = json.loads((tmp_path / "problem.json").read_text())
    text["observed"]["rates_mrps"] = [[10**6, 0] for _ in text["observed"]["rates_mrps"]]
    (tmp_path / "problem.json").write_text(json.dumps(text))
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["problem_digest"] = problem_from_json(text, "problem").digest
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    capsys.readouterr()
    assert run(["check", str(tmp_path)]) == 4
    assert "every rule held in 0.00% of the observed time only" in capsys.readouterr().err
