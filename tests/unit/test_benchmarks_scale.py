"""The study `scale`: its instances are what they say, and its peers keep the rules."""

from __future__ import annotations

import gzip
import sys
import zlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from shared_data import REPOSITORY, shared_file
from studies import load

from planner.domain.certificate import Certificate, Proof
from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.plan import Placement, Plan
from planner.domain.problem import SCHEMA_VERSION, Objective, Problem
from planner.errors import InputError
from solvers.base import Progress, SolveOptions, SolveResult
from solvers.registry import solve

SCALE = REPOSITORY / "benchmarks" / "scale"
FILES = sorted((SCALE / "instances").glob("*.json.gz"))
SMALLEST = sorted({path.name.rsplit("-", 2)[0]: path for path in reversed(FILES)}.values())
LARGEST_FOLDER_BYTES = 6_000_000
LITERAL = """2
1000 3
2
400 1 3
200 1 1
"""


@pytest.fixture
def instances(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("instances", SCALE, monkeypatch)


@pytest.mark.parametrize("path", SMALLEST, ids=lambda path: path.name)
def test_a_stored_instance_is_what_its_seed_gives(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = load("make_instances", SCALE, monkeypatch)
    label, size, seed = path.name.removesuffix(".json.gz").rsplit("-", 2)
    recipe = next(r for r in make.recipes() if (r.label, r.replicas) == (label, int(size)))
    made = make.packed(recipe.instance(int(seed)))
    assert gzip.decompress(made) == gzip.decompress(path.read_bytes())
    if "ng" not in zlib.ZLIB_RUNTIME_VERSION:  # another zlib may compress in another way
        assert made == path.read_bytes()


def test_every_recipe_is_stored_and_the_folder_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    make = load("make_instances", SCALE, monkeypatch)
    named = {f"{recipe.name(seed)}.json.gz" for recipe in make.recipes() for seed in range(recipe.seeds)}
    assert named == {path.name for path in FILES}
    assert sum(path.stat().st_size for path in FILES) < LARGEST_FOLDER_BYTES


@pytest.mark.parametrize("name", ["hard-2-000050-0", "hard-3-000200-3"])
def test_the_known_optimum_of_hard_fills_every_gpu(name: str, instances: ModuleType) -> None:
    """Kinds 3t, 3t + 1, 3t + 2 make a full GPU: a plan, and the area says that no other has fewer."""
    path = SCALE / "instances" / f"{name}.json.gz"
    problem, optimum = instances.load(path), instances.read(path).optimum
    placements, gpus = [], 0
    for first in range(0, len(problem.models), 3):
        for _ in range(problem.models[first].replicas_min):
            device = problem.devices[gpus].id
            for option in problem.options[first : first + 3]:
                placements.append(Placement(replica=f"r{len(placements)}", option=option.id, device=device))
            gpus += 1
    layout = Layout(problem, placements)
    assert check_placements(problem, tuple(placements)) == []
    assert len(layout.devices) == gpus == optimum
    for loaded in layout.devices:
        assert loaded.memory_bytes_used == loaded.kind.memory_bytes
        assert all(loaded.busy_ppm(p) == loaded.kind.utilization_ppm for p in range(len(problem.periods)))


def test_a_fleet_of_types_binds_and_has_a_plan(instances: ModuleType) -> None:
    problem = instances.load(SCALE / "instances" / "types-3-000200-0.json.gz")
    result = solve(problem, SolveOptions(), Progress(), name="greedy")
    used = Layout(problem, result.placements or ()).devices
    stock = [d for d in problem.devices if d.kind == "A100-40"]
    assert len({o.kind for o in problem.options}) == 5
    assert len([d for d in used if d.kind.name == "A100-40"]) == len(stock)


def test_a_vbp_file_becomes_a_problem_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    vectorpack = load("vectorpack", SCALE, monkeypatch)
    problem = vectorpack.problem_of(vectorpack.parse(LITERAL, "literal"))
    assert problem.kinds[0].memory_bytes == 1000
    assert problem.kinds[0].utilization_ppm == 999_999  # 3 x 333,333
    assert [(o.memory_bytes, o.busy_ppm) for o in problem.options] == [(400, (333_333,)), (200, (333_333,))]
    assert [(m.replicas_min, m.replicas_max) for m in problem.models] == [(3, 3), (1, 1)]
    assert not _broken_on_one_gpu(problem, ["m0@bin:1", "m0@bin:1", "m1@bin:1"])  # 1000 and 3: just full
    assert _broken_on_one_gpu(problem, ["m0@bin:1", "m0@bin:1", "m0@bin:1"]) == {"gpu-memory"}
    assert _broken_on_one_gpu(problem, ["m0@bin:1", "m1@bin:1", "m1@bin:1", "m1@bin:1"]) == {"gpu-utilization"}


def _broken_on_one_gpu(problem: Problem, options: list[str]) -> set[str]:
    placements = tuple(Placement(replica=f"r{i}", option=o, device="bin/0") for i, o in enumerate(options))
    return {v.rule for v in check_placements(problem, placements)} - {"demand", "replicas"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("1\n10\n1\n-1 2\n", "negative"), ("2\n10 10\n2\n1 1 1\n", "announced"), ("3\n9 9 8\n1\n1 1 1 1\n", "differ")],
)
def test_a_vbp_file_that_does_not_fit_is_refused(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=message):
        load("vectorpack", SCALE, monkeypatch).parse(text, "literal")


def test_instances_of_the_paper_come_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shared_file("vectorpack")
    monkeypatch.setenv("PLANNER_SHARED", str(folder.parents[1]))
    cases = load("cases", SCALE, monkeypatch)
    found = cases.cases(["classF-3"], [60], 1)
    assert [case.path.stem for case in found] == ["classF_60_3_0"]
    assert cases.vectorpack.known(found[0].path) == cases.vectorpack.Known(20, 20, 22)


@pytest.mark.parametrize("label", ["small-3-000050-0", "mixed-2-000200-0", "hard-2-000050-0", "fragile-001000-0"])
def test_the_heuristics_keep_the_rules(label: str, instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", SCALE, monkeypatch)
    problem = instances.load(SCALE / "instances" / f"{label}.json.gz")
    answer = peers.greedy_heuristics(problem, 1.0)
    assert check_placements(problem, answer.placements) == []
    assert answer.bound <= len({p.device for p in answer.placements})


@pytest.mark.parametrize("label", ["mixed-2-000050-1", "small-2-000200-0", "fragile-001000-1"])
@pytest.mark.parametrize("fullest_first", [False, True])
def test_equal_replicas_move_together_as_one_by_one(
    label: str, fullest_first: bool, instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    heuristics = load("heuristics", SCALE, monkeypatch)
    items = sys.modules["items"].items_of(instances.load(SCALE / "instances" / f"{label}.json.gz"))
    order = (-items.shares.sum(axis=1)).argsort(kind="stable")
    packed = heuristics._kind_by_kind(items, order, "", fullest_first=fullest_first)
    assert packed.bins == _one_by_one(items, order.tolist(), fullest_first=fullest_first)


def _one_by_one(items: SimpleNamespace, order: list[int], *, fullest_first: bool) -> int:
    bins: list[list[int]] = []
    for kind in order:
        for _ in range(int(items.count[kind])):
            fitting = [row for row in bins if _fits(items, [*row, kind])]
            if not fitting:
                bins.append([kind])
            elif fullest_first:
                max(fitting, key=lambda row: (items.need[row].sum(axis=0) / items.capacity).sum()).append(kind)
            else:
                fitting[0].append(kind)
    return len(bins)


def _fits(items: SimpleNamespace, row: list[int]) -> bool:
    return bool((items.need[row].sum(axis=0) <= items.limit[row].min(axis=0)).all())


@pytest.mark.parametrize("name", ["hard-2-000050-0", "small-2-000050-0"])
def test_the_naive_program_keeps_the_rules(name: str, instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = load("peers", SCALE, monkeypatch)
    problem = instances.load(SCALE / "instances" / f"{name}.json.gz")
    answer = peers.naive_cpsat(problem, 1.0)
    assert check_placements(problem, answer.placements) == []
    assert answer.bound <= len({p.device for p in answer.placements})


def test_arc_flow_finds_a_known_optimum(instances: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highspy")
    pytest.importorskip("_vbp2afg")
    peers = load("peers", SCALE, monkeypatch)
    problem = instances.load(SCALE / "instances" / "hard-2-000050-0.json.gz")
    answer = peers.arc_flow(problem, 10.0)
    assert check_placements(problem, answer.placements) == []
    assert answer.bound == len({p.device for p in answer.placements}) == 16


def test_a_run_prints_its_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    study = load("run", SCALE, monkeypatch)
    where = tmp_path / "runs.json"
    chosen = ["--only", "hard-2", "types-1", "--sizes", "50", "200", "--seeds", "1"]
    study.main([*chosen, "--solver", "greedy", "--peers", "heuristics", "--json", str(where)])
    output = capsys.readouterr().out
    assert "| class | n | plans | GPUs or USD/h | bound | certified | gap | optimal | s |" in output
    assert "| hard-2 | 50 | 1 of 1 | " in output
    assert "| types-1 | 200 | 1 of 1 | " in output
    assert "| hard-2 | 200 | 7" in output  # beside the peers
    assert '"method": "heuristics"' in where.read_text()


@pytest.mark.parametrize("given", ["proofs", "certificate"])
def test_a_certificate_is_verified_in_the_same_process(
    given: str, instances: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve_one = load("solve_one", SCALE, monkeypatch)
    problem = instances.load(SCALE / "instances" / "hard-2-000050-0.json.gz")
    proof = Proof(objective=Objective.GPUS, bound=16, leaves=(), node_limit=1)
    certificate = Certificate(schema_version=SCHEMA_VERSION, problem_digest=problem.digest, proofs=(proof,))
    found = solve(problem, SolveOptions(), Progress(), name="greedy")
    fields = {name: getattr(found, name) for name in SolveResult.__dataclass_fields__}
    fields |= {"compile_s": 0.5, given: {"proofs": (proof,), "certificate": certificate}[given]}
    monkeypatch.setattr(solve_one.registry, "solve", lambda *_args, **_kwargs: SimpleNamespace(**fields))
    seen = []

    def verify(problem: Problem, plan: Plan, certificate: Certificate) -> list[str]:
        seen.append((problem, plan.objectives[0].certified_bound, certificate))
        return [] if given == "proofs" else ["not so"]

    monkeypatch.setitem(sys.modules, "planner.domain.proof", SimpleNamespace(verify=verify))
    outcome = solve_one.by_planner(problem, "auto", SolveOptions())
    assert seen == [(problem, 16, certificate)]
    assert (outcome.bound, outcome.certified_bound, outcome.compile_s) == (16, 16, 0.5)
    assert (outcome.verified, outcome.note) == (
        (True, "area") if given == "proofs" else (False, "not verified: not so")
    )
