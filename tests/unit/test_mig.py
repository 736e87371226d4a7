"""MIG: the layouts of real GPUs, the rule `mig-layout` in check and solvers, what build and files make of them."""

from __future__ import annotations

from collections import Counter
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from planner.build import BuildSettings, build
from planner.domain.check import check_placements
from planner.domain.fleet import Fleet, Gpu, GpuType, Node, placed_layout
from planner.domain.gpu_groups import gpu_groups
from planner.domain.layout import Layout
from planner.domain.mig import Part, layout_of, layouts, may_join
from planner.domain.objectives import integer_value
from planner.domain.plan import Placement, Status
from planner.domain.problem import Objective, Problem, Settings
from planner.domain.profile import ProfileRow
from planner.domain.rules import Rule
from planner.domain.units import PPM
from planner.domain.workload import ModelDemand, Workload
from planner.errors import InputError, NotFoundError
from planner.inputs.catalogue import catalogue
from planner.inputs.fleet import read_fleet
from solvers import registry
from solvers.base import Progress, SolveOptions
from solvers.reduction import Reduction
from tests.mig_problems import fixed_gpu, free_gpu, slice_kind
from tests.problems import kind, model, option, problem

SEVEN = ("A100-40", "A100-80", "H100-80", "H200", "B200")
GIB = 2**30


def parts_of(gpu_type: GpuType, *, double: bool) -> tuple[Part, ...]:
    """Every placement of every profile; `double`: of 1g with twice the memory too."""
    return tuple(
        Part(one.name, one.mig, start)
        for one in gpu_type.slices
        if double or not (one.mig.compute == 1 and one.mig.memory == 2)
        for start in one.mig.starts
    )


def sizes(gpu_type: GpuType, names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(sorted((gpu_type.slice_named(name).mig.compute for name in names), reverse=True))


@pytest.mark.parametrize("name", SEVEN)
def test_seven_slices_make_37_layouts_12_of_them_maximal(name: str) -> None:
    gpu_type = catalogue()[name]
    parts = parts_of(gpu_type, double=False)
    maximal = {sizes(gpu_type, tuple(parts[p].kind for p in places)) for places in layouts(parts)}
    assert maximal == {
        (7,), (4, 3), (4, 2, 1), (4, 1, 1, 1), (3, 3), (3, 2, 2), (3, 2, 1, 1), (3, 1, 1, 1, 1), (2, 2, 2, 1),
        (2, 2, 1, 1, 1), (2, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 1),
    }  # fmt: skip
    by_size = {one.mig.compute: one.mig for one in reversed(gpu_type.slices)}
    legal = [
        row
        for count in range(1, 8)
        for row in combinations_with_replacement(sorted(by_size), count)
        if layout_of([(by_size[size], None) for size in reversed(row)]) is not None
    ]
    assert len(legal) == 37
    assert all(any(Counter(row) <= Counter(whole) for whole in maximal) for row in legal)


def test_an_a30_has_four_maximal_layouts() -> None:
    gpu_type = catalogue()["A30"]
    parts = parts_of(gpu_type, double=True)
    maximal = {sizes(gpu_type, tuple(parts[p].kind for p in places)) for places in layouts(parts)}
    assert maximal == {(4,), (2, 2), (2, 1, 1), (1, 1, 1, 1)}


def test_a_slice_of_double_memory_counts_two_memory_slices() -> None:
    gpu_type = catalogue()["A100-80"]
    maximal = [Counter(parts[p].kind for p in places) for parts in [parts_of(gpu_type, double=True)]
               for places in layouts(parts)]  # fmt: skip
    assert Counter({"1g.20gb": 4}) in maximal
    assert Counter({"4g.40gb": 1, "1g.20gb": 2}) in maximal
    assert all(3 * row["1g.20gb"] <= 12 and sum(row.values()) <= 7 for row in maximal)


def test_every_layout_is_legal_and_full() -> None:
    parts = parts_of(catalogue()["H100-80"], double=True)
    for places in layouts(parts):
        chosen = [parts[p] for p in places]
        for number, part in enumerate(chosen):
            assert may_join(part, chosen[:number])
        assert not any(may_join(part, chosen) for place, part in enumerate(parts) if place not in places)


def test_the_catalogue_never_plans_on_nominal_memory() -> None:
    for gpu_type in catalogue().values():
        for one in gpu_type.slices:
            nominal = int(one.name.split(".")[1].removesuffix("gb")) * 10**9
            whole = gpu_type.memory_bytes * one.mig.memory / one.mig.gpu_memory
            assert one.memory_bytes <= min(nominal * 1.08, whole * 1.01)
            assert one.memory_bytes > 0.85 * whole


def placed(*pairs: tuple[str, str]) -> tuple[Placement, ...]:
    return tuple(Placement(replica=f"r{i}", option=o, device=d) for i, (o, d) in enumerate(pairs))


def split_problem(**changes: object) -> Problem:
    """Three models with an option on each slice, and one on the whole; one GPU with a free layout."""
    kinds = [kind("split"), *(slice_kind(name) for name in ("1g", "2g", "3g"))]
    models = [model(name) for name in "abc"]
    options = [option(m.name, k.name) for m in models for k in kinds]
    return problem(models, options, **({"kinds": kinds, "fleet": free_gpu(0)} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("devices", "broken"),
    [
        (["1g@0", "1g@1", "1g@2"], []),
        (["2g@0", "1g@2"], []),
        (["2g@0", "1g@1"], ["split/0/2g@0"]),  # both take memory slice 1
        (["2g@0", "2g@2"], ["split/0/2g@2"]),  # four compute slices of three
        (["3g@0", "1g@2"], ["split/0/3g@0"]),
        (["1g@1", ""], ["split/0/1g@1"]),  # the whole beside a slice
    ],
)
def test_the_check_finds_slices_that_are_no_layout(devices: list[str], broken: list[str]) -> None:
    subject = split_problem()
    pairs = []
    for model_name, device in zip("abc", devices, strict=False):
        name = device.partition("@")[0]
        pairs.append((f"{model_name}@split" + (f"/{name}" if name else ""), f"split/0/{device}".rstrip("/")))
    found = [v for v in check_placements(subject, placed(*pairs)) if v.rule is Rule.MIG_LAYOUT]
    assert [violation.subject for violation in found] == broken


def test_the_check_finds_a_start_that_the_profile_does_not_have() -> None:
    subject = split_problem(fleet=fixed_gpu(0, ("2g", 1)))
    found = check_placements(subject, placed(("a@split/2g", "split/0/2g@1")))
    assert [str(v) for v in found if v.rule is Rule.MIG_LAYOUT] == [
        "mig-layout: split/0/2g@1: a split/2g cannot start at 1; it can at 0, 2"
    ]


def test_a_gpu_in_use_counts_once_however_it_is_split() -> None:
    subject = split_problem(objectives=(Objective.GPUS, Objective.COST))
    layout = Layout(subject, placed(("a@split/1g", "split/0/1g@0"), ("b@split/1g", "split/0/1g@1")))
    assert [integer_value(layout, o) for o in subject.objectives] == [1, 1_000_000]


def test_a_replica_alone_on_a_slice_leaves_the_margin() -> None:
    kinds = [slice_kind("1g", alone_ppm=950_000)]
    for busy, is_allowed in ((950_000, True), (950_001, False)):
        subject = problem([model("a")], [option("a", "split/1g", busy_ppm=(busy,))], kinds=kinds,
                          fleet=fixed_gpu(0, ("1g", 0)))  # fmt: skip
        found = check_placements(subject, placed(("a@split/1g", "split/0/1g@0")))
        assert [v.rule for v in found] == ([] if is_allowed else [Rule.GPU_UTILIZATION])
        for solver in registry.FACTORIES:
            status = registry.solve(subject, SolveOptions(time_limit_s=5), Progress(), name=solver).status
            assert status.has_plan is is_allowed


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_the_server_base_is_paid_on_every_slice(solver: str) -> None:
    """Models of 4 bytes fit on slices of 5 that pay a base of 1, and not on slices of 4."""
    for memory, status in ((5, True), (4, False)):
        subject = split_problem(
            fleet=fixed_gpu(0, ("1g", 0), ("1g", 1), ("1g", 2)),
            kinds=[kind("split"), slice_kind("1g", memory_bytes=memory, server_base_bytes=1), slice_kind("2g"),
                   slice_kind("3g")],
        )  # fmt: skip
        result = registry.solve(subject, SolveOptions(time_limit_s=5), Progress(), name=solver)
        assert result.status.has_plan is status


@pytest.mark.parametrize("solver", [name for name in registry.FACTORIES if name != "greedy"])
def test_the_layout_is_chosen_for_the_models(solver: str) -> None:
    """a needs a 2g, b fits on a 1g; with the whole GPU alone one would be without."""
    kinds = [kind("split", memory_bytes=9), slice_kind("1g", memory_bytes=4), slice_kind("2g", memory_bytes=6)]
    subject = problem(
        [model("a"), model("b")],
        [option("a", k.name, memory_bytes=6, max_others=0) for k in (kinds[0], kinds[2])]
        + [option("b", k.name, memory_bytes=4, max_others=0) for k in kinds],
        kinds=kinds,
        fleet=free_gpu(0, ("1g", "2g")),
    )
    result = registry.solve(subject, SolveOptions(time_limit_s=5), Progress(), name=solver)
    assert result.status is Status.OPTIMAL
    assert {p.device for p in result.placements or ()} == {"split/0/2g@0", "split/0/1g@2"}


def test_gpus_with_a_free_layout_are_one_group() -> None:
    subject = split_problem(fleet=[*free_gpu(0), *free_gpu(1), *fixed_gpu(2, ("2g", 0), ("1g", 2))])
    free, fixed = gpu_groups(subject)
    assert (free.count, fixed.count) == (2, 1)
    assert sorted(free.layouts) == [
        ("split",), ("split/1g", "split/1g", "split/1g"), ("split/1g", "split/2g"), ("split/3g",)
    ]  # fmt: skip
    assert fixed.layouts == (("split/1g", "split/2g"),)
    reduced = Reduction(subject).groups
    assert [len(group.layouts) for group in reduced] == [4, 1]


def profile(model_name: str, device: str, rate: float, **changes: object) -> ProfileRow:
    values: dict[str, object] = {"instances": 1, "max_batch_size": 1, "rate_rps": rate, "latency_p99_ms": 10.0}
    return ProfileRow(model=model_name, device=device, **(values | changes))  # type: ignore[arg-type]


def built_problem(rows: list[ProfileRow], gpus: list[Gpu], *, mig: bool, margin: float = 0.05) -> Problem:
    fleet = Fleet(nodes=(Node(name="n"),), gpus=tuple(gpus), types=catalogue())
    workload = Workload(models=(ModelDemand(name="m", rates_rps={"all": 50.0}),))
    settings = Settings(mig_margin=margin, reserve=0.0)
    return build(workload, fleet, rows, BuildSettings(settings=settings, mig=mig, server_base_bytes=GIB)).problem


SLICED_ROWS = [
    profile("m", "A100-80", 700.0, memory_bytes=GIB),
    profile("m", "A100-80/1g.10gb", 100.0, memory_bytes=GIB),
    profile("m", "A100-80/3g.40gb", 300.0, memory_bytes=GIB),
]


def test_mig_offers_every_placement_of_each_measured_slice_and_the_whole() -> None:
    gpu = Gpu(node="n", index=0, type="A100-80", usd_per_hour=3.0)
    subject = built_problem(SLICED_ROWS, [gpu], mig=True)
    assert [d.id for d in subject.devices] == [
        "n/0", *(f"n/0/1g.10gb@{start}" for start in range(7)), "n/0/3g.40gb@0", "n/0/3g.40gb@4",
    ]  # fmt: skip
    assert {d.gpu for d in subject.devices} == {"n/0"}
    sliced = subject.kind_by_name["A100-80/1g.10gb"]
    assert (sliced.memory_bytes, sliced.alone_ppm, sliced.utilization_ppm) == (int(9.5 * GIB), 950_000, 800_000)
    assert (sliced.type, sliced.cost_microusd_per_hour) == ("A100-80", 3_000_000)
    assert subject.kind_by_name["A100-80"].alone_ppm == PPM


def test_without_mig_a_whole_gpu_stays_whole_and_a_split_one_split() -> None:
    layout = (("3g.40gb", 0), ("3g.40gb", 4))
    gpus = [Gpu(node="n", index=0, type="A100-80"), Gpu(node="n", index=1, type="A100-80", mig_layout=layout)]
    for mig, whole in ((False, 1), (True, 10)):
        subject = built_problem(SLICED_ROWS, gpus, mig=mig)
        assert [d.id for d in subject.devices][whole:] == ["n/1/3g.40gb@0", "n/1/3g.40gb@4"]
        assert len(subject.devices) == whole + 2


def test_the_margin_takes_its_part_of_a_slices_rate() -> None:
    subject = built_problem(SLICED_ROWS, [Gpu(node="n", index=0, type="A100-80")], mig=True)
    best = {k.name: max(o.capacity_mrps for o in subject.options if o.kind == k.name) for k in subject.kinds}
    assert best == {"A100-80": 700_000, "A100-80/1g.10gb": 95_000, "A100-80/3g.40gb": 285_000}


def test_a_slice_whose_busy_time_is_not_known_needs_no_margin() -> None:
    """Where requests are batched, busy time without a reading counts as all of it."""
    rows = [profile("m", "A100-80/1g.10gb", 100.0, max_batch_size=8, queue_delay_us=0)]
    gpus = [Gpu(node="n", index=0, type="A100-80", mig_layout=(("1g.10gb", 0),))]
    fleet = Fleet(nodes=(Node(name="n"),), gpus=tuple(gpus), types=catalogue())
    workload = Workload(models=(ModelDemand(name="m", rates_rps={"all": 50.0}),))
    built = build(workload, fleet, rows, BuildSettings(settings=Settings()))
    assert built.problem.options == ()
    assert "the MIG margin allows 95%: give busy, or --mig-margin 0" in built.without_option[0]
    built = build(workload, fleet, rows, BuildSettings(settings=Settings(mig_margin=0.0)))
    assert max(o.capacity_mrps for o in built.problem.options) == 100_000


def test_a_model_measured_on_slices_alone_asks_for_mig() -> None:
    gpu = Gpu(node="n", index=0, type="A100-80")
    rows = [SLICED_ROWS[1]]
    with pytest.raises(NotFoundError, match=r"no profile on A100-80; it was measured on A100-80/1g.10gb") as caught:
        built_problem(rows, [gpu], mig=False)
    assert "--mig lets the planner split GPUs" in (caught.value.hint or "")
    assert [k.name for k in built_problem(rows, [gpu], mig=True).kinds] == ["A100-80/1g.10gb"]


def read(tmp_path: Path, text: str) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"schema_version: 1\n{text}\n", encoding="utf-8")
    return read_fleet(path)


def test_a_fleet_file_gives_layouts(tmp_path: Path) -> None:
    fleet = read(
        tmp_path,
        "nodes:\n"
        "  - name: a\n"
        "    gpus: [{type: A100, count: 2, mig_layout: [4g.40gb, 2g.20gb, 1g.10gb]}, {type: A30}]\n"
        "  - {name: b, gpus: [{type: A100-80, mig_layout: [3g.40gb@4, 2g.20gb]}]}\n"
        "gpu_types: {A100-80: {mig_slices: {1g.10gb: 9.6GiB}}, H100-80: {mig: false}}\n",
    )
    assert [gpu.mig_layout for gpu in fleet.gpus] == [
        (("4g.40gb", 0), ("2g.20gb", 4), ("1g.10gb", 6)),
        (("4g.40gb", 0), ("2g.20gb", 4), ("1g.10gb", 6)),
        (),
        (("3g.40gb", 4), ("2g.20gb", 0)),
    ]
    assert fleet.types["A100-80"].slice_named("1g.10gb").memory_bytes == int(9.6 * GIB)
    assert fleet.types["A100-80"].slice_named("2g.20gb").memory_bytes == int(19.5 * GIB)
    assert not fleet.types["H100-80"].mig


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        ("{type: A100, mig_layout: [4g.40gb, 4g.40gb]}", r":2: .*mig_layout: no A100-80 can be split into 4g.40gb, 4g"),
        ("{type: A100, mig_layout: [3g.40gb, 3g.40gb, 1g.10gb]}", "no A100-80 can be split into 3g"),
        ("{type: A100, mig_layout: [2g.20gb@1]}", "no A100-80 can be split into 2g.20gb@1"),
        ("{type: A100, mig_layout: [2g.20gb@x]}", "a start is a number such as 4"),
        ("{type: A100, mig_layout: [1g.5gb]}", "A100-80 has no MIG profile '1g.5gb'; it has 1g.10gb, 1g.20gb"),
        ("{type: L4, mig_layout: [1g.5gb]}", "L4 has no MIG profile '1g.5gb'; it has none at all"),
        ("{type: A100, mig_layout: []}", "mig_layout: must not be empty"),
        ("{type: A100, reserve: 2GiB, mig_layout: [7g.80gb]}", "reserve: a reserve is one of a whole GPU"),
    ],
)
def test_layouts_that_cannot_be(tmp_path: Path, gpus: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"nodes: [{{name: a, gpus: [{gpus}]}}]")


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ("{L4: {mig: true}}", "how 'L4' can be split is not known; it is of B200"),
        ("{A100-80: {mig_slices: {1g.5gb: 4GiB}}}", "A100-80 has no MIG profile '1g.5gb'"),
    ],
)
def test_types_that_cannot_be_split(tmp_path: Path, types: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, f"nodes: [{{name: a, gpus: L4}}]\ngpu_types: {types}")


def test_a_layout_without_starts_finds_them() -> None:
    names = ["1g.10gb", "1g.10gb", "1g.10gb", "4g.40gb"]
    starts = [start for _, start in placed_layout(catalogue()["A100-80"], names)]
    assert starts[-1] == 0
    assert sorted(starts) == [0, 4, 5, 6]


def test_of_replicas_that_share_with_nobody_the_one_that_serves_most_is_enough() -> None:
    """Busy time and instances matter to nobody there, unless the plan is to be balanced."""
    options = [
        option("a", "split/1g", id=f"a{i}", capacity_mrps=100 * i, busy_ppm=(100_000 * i,), max_others=0)
        for i in (1, 2, 3)
    ]
    for objectives, kept in (((Objective.GPUS,), ["a3"]), ((Objective.GPUS, Objective.BALANCE), ["a1", "a2", "a3"])):
        subject = problem([model("a")], options, kinds=[slice_kind("1g")], fleet=fixed_gpu(0, ("1g", 0)),
                          objectives=objectives)  # fmt: skip
        assert sorted(choice.option.id for choice in Reduction(subject).choices) == kept
