"""Ensembles: what a workload may say, what follows for members, and what is promised of the whole."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner.basis import basis_notes
from planner.build import BuildSettings, build
from planner.domain.check import check, check_placements
from planner.domain.codec import to_json
from planner.domain.derive import Origin, derive_plan
from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.plan import Placement, Status
from planner.domain.problem import Problem, Settings, problem_from_json
from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.domain.tail import percentile_or_tail_ms
from planner.domain.workload import EnsembleDemand, MemberCalls, ModelDemand, Workload
from planner.errors import InputError
from planner.inputs.fleet import fleet_from_counts, known_types
from planner.inputs.profiles_csv import read_profiles
from planner.inputs.workload import read_workload
from tests.problems import devices, model, option, problem

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = """\
schema_version: 1
models: [{name: a, rate_rps: 5}, {name: b}, {name: c}]
ensembles:
  - name: e
    rate_rps: 10
    latency_p90_ms: 100
    members: [{name: a}, {name: b, calls: 3, parallel: 2}, {name: c}]
    graph: [[a, b], [b, c]]
"""


def _read(folder: Path, old: str = "", new: str = "") -> EnsembleDemand:
    assert old in GOOD
    path = folder / "workload.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    return read_workload(path).ensembles[0]


def test_an_ensemble_is_read(tmp_path: Path) -> None:
    found = _read(tmp_path)
    assert (found.name, found.serve, found.percentile, found.call_percentile) == ("e", Serve.CLIENT, 90, 99)
    assert [(m.name, m.calls, m.depth) for m in found.members] == [("a", 1, 1), ("b", 3, 2), ("c", 1, 1)]
    assert found.graph == (("a", "b"), ("b", "c"))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("[b, c]]", "[b, c], [c, a]]", "yaml:8: ensembles[0].graph: has a cycle: a -> b -> c -> a"),
        ("[b, c]]", "[b, b]]", "ensembles[0].graph: has a cycle: b -> b"),
        ("{name: c}]\n    g", "{name: d}]\n    g", "members[2].name: 'd' is no model of this file; there are a, b, c"),
        ("[b, c]]", "[b, d]]", "yaml:8: ensembles[0].graph[1][1]: 'd' is no member; there are a, b, c"),
        ("[b, c]]", "[b]]", "graph[1]: must not be empty"),
        ("{name: c}]\n    graph", "{name: a}]\n    graph", "member 'a' is given twice"),
        ("    rate_rps: 10\n", "", "ensembles[0].rate_rps: is missing"),
        ("name: e", "name: a", "'a' is the name of a model"),
        ("calls: 3", "calls: 0", "members[1].calls: must be at least 1, got 0"),
        ("latency_p90_ms: 100", "serve: server", "must be 'client' or 'triton', got 'server'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_clear_error(tmp_path: Path, old: str, new: str, error: str) -> None:
    with pytest.raises(InputError) as caught:
        _read(tmp_path, old, new)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("percentile", "calls", "each"),
    [(95, 5, 99), (95, 6, 99.17), (99, 2, 99.5), (99, 13, 99.924), (99, 3000, 99.99967)],
)
def test_a_call_has_to_be_late_more_seldom_than_the_whole(percentile: int, calls: int, each: float) -> None:
    demand = EnsembleDemand(
        name="e", rates_rps={"all": 1}, percentile=percentile, latency_bound_ms=1, serve=Serve.CLIENT,
        members=(MemberCalls(name="a", calls=calls),),
    )  # fmt: skip
    assert demand.call_percentile == each
    assert calls * (100 - each) <= 100 - percentile + 1e-9


def test_a_percentile_beyond_those_measured_is_estimated_from_the_tail() -> None:
    row = ProfileRow(model="m", device="d", latency_p50_ms=2, latency_p90_ms=4, latency_p99_ms=20)
    assert percentile_or_tail_ms(row, 90) == 4
    assert percentile_or_tail_ms(row, 99) == 20
    # From p90 to p99 a tenth as many take five times as long, which is steeper than from p50.
    assert percentile_or_tail_ms(row, 99.9) == pytest.approx(100)
    assert percentile_or_tail_ms(replace(row, latency_p99_ms=None), 99.9) is None
    assert percentile_or_tail_ms(replace(row, latency_p50_ms=None, latency_p90_ms=None), 99.9) is None


@pytest.mark.parametrize("draw", [lambda rng: rng.expovariate(1), lambda rng: rng.paretovariate(2)])
def test_no_heavier_tail_is_underestimated(draw: Callable[[random.Random], float]) -> None:
    rng = random.Random(2)
    calls = sorted(draw(rng) for _ in range(400_000))
    p50, p90, p95, p99, p999 = (calls[int(len(calls) * share)] for share in (0.5, 0.9, 0.95, 0.99, 0.999))
    row = ProfileRow(
        model="m", device="d", latency_p50_ms=p50, latency_p90_ms=p90, latency_p95_ms=p95, latency_p99_ms=p99
    )
    assert 0.95 * p999 <= (percentile_or_tail_ms(row, 99.9) or 0) <= 3 * p999


def test_a_plan_that_rests_on_the_tail_says_so() -> None:
    """The example of a text reader: thirteen calls a request, and p99 of the whole."""
    rows = [
        ProfileRow(
            model=name, device="L4", load=LoadMode.OPEN, rate_rps=400, latency_p50_ms=4, latency_p90_ms=8,
            latency_p99_ms=16, memory_bytes=1,
        )
        for name in ("detect", "classify", "recognise")
    ]  # fmt: skip
    calls = {"detect": 1, "classify": 6, "recognise": 6}
    ensemble = EnsembleDemand(
        name="ocr", rates_rps={"all": 50}, percentile=99, latency_bound_ms=300, serve=Serve.CLIENT,
        members=tuple(MemberCalls(name=name, calls=count, parallel=count) for name, count in calls.items()),
        graph=(("detect", "classify"), ("classify", "recognise")),
    )  # fmt: skip
    workload = Workload(models=tuple(ModelDemand(name=name) for name in calls), ensembles=(ensemble,))
    fleet, _ = fleet_from_counts(["4xL4"], known_types())
    choice = BuildSettings(settings=Settings(), server_base_bytes=0)
    subject = build(workload, fleet, rows, choice).problem
    promised = {o.model: o.promised_us(99.924) for o in subject.options if o.max_others == 0}
    assert promised["detect"] == promised["classify"] == 39_878  # 16 ms x (1 / 0.076) to the power of log(4) / log(50)
    assert (
        "ensemble ocr: its p99 over 13 calls rests on the p99.924 of each, which is estimated from the tail up to p99; "
        "without estimates it promises p87" in basis_notes(subject, subject.options)
    )
    assert problem_from_json(to_json(subject), "problem.json") == subject


def test_a_model_is_called_by_one_triton_ensemble_at_most(tmp_path: Path) -> None:
    more = "  - {name: f, rate_rps: 1, serve: triton, members: [{name: b}]}\n"
    path = tmp_path / "workload.yaml"
    path.write_text(GOOD + more)
    assert len(read_workload(path).ensembles) == 2
    path.write_text(GOOD.replace("rate_rps: 10", "rate_rps: 10\n    serve: triton") + more)
    with pytest.raises(InputError, match="'b' is a member of 'e' too"):
        read_workload(path)


def _built(folder: str) -> Problem:
    workload = read_workload(EXAMPLES / folder / "workload.yaml")
    fleet, _ = fleet_from_counts(["4xL4"], known_types())
    rows = read_profiles(EXAMPLES / folder / "profiles.csv")
    return build(workload, fleet, rows, BuildSettings(settings=Settings())).problem


def test_members_are_asked_for_what_ensembles_call_and_for_their_own() -> None:
    subject = _built("ensemble")
    assert subject.model_by_name["detect"].demand_mrps == (60_000,)
    assert subject.model_by_name["recognise"].demand_mrps == (200_000,)


def test_the_more_an_option_bears_the_longer_a_call_takes() -> None:
    options = [o for o in _built("ensemble").options if o.model == "detect" and o.capacity_mrps == 60_000]
    promised = [(o.max_others, [(p.percentile, p.latency_us) for p in o.promises]) for o in options]
    assert promised == [(0, [(99, 55_000)]), (1, [(99, 180_000)]), (1, [(99, 210_000)])]
    assert [o.tolerance_ppm for o in options] == [0, 500_000, 571_428]


def test_the_slowest_path_of_a_fork_decides() -> None:
    ensemble = Ensemble(
        name="e", demand_mrps=(1,), percentile=90, bound_us=100, call_percentile=99, serve=Serve.CLIENT,
        members=(Member(model="a"), Member(model="b", calls=2, depth=2), Member(model="c")),
        edges=(("a", "b"), ("a", "c")),
    )  # fmt: skip
    assert ensemble.slowest_path({"a": 10, "b": 20, "c": 30}) == (50, ("a", "b"))
    assert ensemble.slowest_path({"a": 10, "b": 20, "c": 41}) == (51, ("a", "c"))


def test_a_graph_with_a_cycle_is_refused_in_problem_json_too() -> None:
    with pytest.raises(InputError, match="its graph has a cycle among a, b"):
        _pair(edges=(("a", "b"), ("b", "a")))


def test_the_union_bound_is_kept_where_calls_are_side_by_side() -> None:
    """Exponential calls: a fork of three, two of them at once. The promise of the whole must hold in a simulation."""
    rng = random.Random(1)
    demand = EnsembleDemand(
        name="e", rates_rps={"all": 1}, percentile=95, latency_bound_ms=1, serve=Serve.CLIENT,
        members=(MemberCalls(name="a"), MemberCalls(name="b", calls=2, parallel=2), MemberCalls(name="c")),
        graph=(("a", "b"), ("a", "c")),
    )  # fmt: skip
    calls = sorted(rng.expovariate(1) for _ in range(100_000))
    each = calls[int(len(calls) * demand.call_percentile / 100)]
    late = sum(rng.expovariate(1) + max(rng.expovariate(1) for _ in range(3)) > 2 * each for _ in range(20_000))
    assert late / 20_000 <= 0.05


def _pair(**changes: object) -> Problem:
    """a, then b: quick alone, slow beside each other."""
    values = {"bound_us": 1000, "serve": Serve.CLIENT, "edges": (("a", "b"),), "demand_mrps": (1000,)} | changes
    ensemble = Ensemble(
        name="e", percentile=95, call_percentile=99, members=(Member(model="a"), Member(model="b")),
        **values,  # type: ignore[arg-type]
    )  # fmt: skip
    curve = (CurvePoint(1000, 300), CurvePoint(3000, 350))
    options = [
        option(name, id=f"{name}{n}", tolerance_ppm=n * 500_000, max_others=n, memory_bytes=4,
               promises=(Promise(percentile=99, latency_us=300 + 400 * n, curve=curve),))
        for name in "ab" for n in (0, 1)
    ]  # fmt: skip
    return problem([model("a"), model("b")], options, fleet=devices(count=2), ensembles=[ensemble])


def _broken(subject: Problem, **on: str) -> list[str]:
    placements = tuple(Placement(replica=o, option=o, device=f"big/{d}") for o, d in on.items())
    return [str(violation) for violation in check_placements(subject, placements)]


def test_a_split_that_is_too_slow_is_found() -> None:
    assert _broken(_pair(), a0="0", b1="1") == []
    assert _broken(_pair(), a1="0", b1="1") == ["ensemble-latency: e: p95 1.400 ms over a -> b, bound 1.000 ms"]


def test_a_call_slower_than_promised_is_found() -> None:
    assert "latency: a0 on big/0: p99 of a call 0.700 ms in period 'all', 0.300 ms are promised" in _broken(
        _pair(bound_us=5000), a0="0", b1="0"
    )


def test_a_member_without_a_promise_is_found() -> None:
    subject = _pair()
    bare = replace(subject, options=tuple(replace(o, promises=()) for o in subject.options))
    assert _broken(bare, a0="0", b0="1") == [
        "ensemble-latency: e: a0 promises no p99 of a call", "ensemble-latency: e: b0 promises no p99 of a call",
    ]  # fmt: skip


def test_a_server_without_all_members_is_found() -> None:
    subject = _pair(serve=Serve.TRITON, bound_us=None)
    assert _broken(subject, a1="0", b1="0") == []
    assert _broken(subject, a1="0", b1="1") == [
        "ensemble-servers: big/0: carries a part of ensemble 'e', but not b",
        "ensemble-servers: big/1: carries a part of ensemble 'e', but not a",
        "ensemble-servers: e: its servers serve 0.000 req/s of 1.000: short by 1.000",
    ]


def test_servers_are_weighed_by_what_they_serve() -> None:
    subject = _pair(serve=Serve.TRITON, bound_us=None)
    placements = tuple(Placement(replica=f"{o}-{d}", option=o, device=f"big/{d}") for d in (0, 1) for o in ("a1", "b1"))
    origin = Origin(status=Status.FEASIBLE, solver="test", seed=0, runtime_s=0.0, bounds=[(None, "none")])
    plan = derive_plan(subject, placements, origin)
    assert check(subject, plan) == []
    assert [(s.device, s.weight) for s in plan.ensembles[0].servers] == [("big/0", 0.5), ("big/1", 0.5)]


def test_what_a_model_serves_beside_its_ensemble_goes_where_room_is_left() -> None:
    """b takes 10 of the ensemble on each server; a has room for 10 more on the second one alone."""
    ensemble = Ensemble(
        name="e", demand_mrps=(20_000,), percentile=99, bound_us=None, call_percentile=99, serve=Serve.TRITON,
        members=(Member(model="a"), Member(model="b")),
    )  # fmt: skip
    options = [option("a", id="a10", capacity_mrps=10_000), option("a", id="a20", capacity_mrps=20_000),
               option("b", capacity_mrps=10_000)]  # fmt: skip
    subject = problem([model("a", 30_000), model("b", 20_000)], options, fleet=devices(count=2), ensembles=[ensemble])
    on = [("a10", 0), ("b@big", 0), ("a20", 1), ("b@big", 1)]
    placements = [Placement(replica=f"{o}-{d}", option=o, device=f"big/{d}") for o, d in on]
    origin = Origin(status=Status.FEASIBLE, solver="test", seed=0, runtime_s=0.0, bounds=[(None, "none")])
    plan = derive_plan(subject, placements, origin)
    assert check(subject, plan) == []
    assert {r.id: (r.weight, r.periods[0].rate_rps) for r in plan.replicas} == {
        "a10-0": (0, 10), "a20-1": (1, 20), "b@big-0": (0.5, 10), "b@big-1": (0.5, 10),
    }  # fmt: skip
