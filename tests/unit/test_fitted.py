"""Fitted points, from the search to everything that reads them: marked as fitted, and without percentiles."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cli import run
from planner.domain.profile import SERVER_ROW, Measurement, ProfileRow, Source, by_configuration
from planner.domain.serving import LoadMode
from planner.store.database import open_store
from profiler.points import Configuration, MeasureRequest, ModelFacts, closed_point, point_key
from profiler.search import Fitted
from profiler.seen import fitted_measurement, is_saturated, seen

RANKER = ModelFacts(
    name="ranker", path=Path("ranker"), backend="python", max_batch_size=8, queue_delay_us=0, digest="d1"
)
REQUEST = MeasureRequest(models=[RANKER], device="cpu-1", server_version="2.51")
CONFIGURATION = Configuration(1, 4, 0)
FITTED = Fitted(
    configuration=CONFIGURATION, inferences_per_s=400.0, memory_bytes=50_000_000, busy=0.9, within=0.03, laws=()
)


def measured(rate_rps: float, concurrency: int, **statistics: object) -> Measurement:
    row = ProfileRow(
        model="ranker", device="cpu-1", backend="python", instances=1, max_batch_size=4, queue_delay_us=0,
        concurrency=concurrency, rate_rps=rate_rps, latency_mean_ms=1000 * concurrency / rate_rps,
        latency_p99_ms=30.0, memory_bytes=52_000_000, busy=0.9, model_digest="d1",
    )  # fmt: skip
    key = point_key(REQUEST, RANKER, CONFIGURATION, closed_point(concurrency))
    return Measurement(key=key, row=row, statistics=statistics, measured_at="now")


def test_a_fit_becomes_a_closed_point_without_percentiles_in_the_place_of_the_one_it_stands_for() -> None:
    found = fitted_measurement(REQUEST, RANKER, FITTED, "now")
    row = found.row
    assert (row.source, row.load, row.concurrency, row.rate_rps, row.latency_mean_ms) == (
        "fitted", LoadMode.CLOSED, 8, 400.0, 20.0,
    )  # fmt: skip
    assert row.percentile_ms(50) is None
    assert found.statistics["throughput_interval_rps"] == [pytest.approx(388), pytest.approx(412)]
    assert found.key == measured(380, 8).key


def test_a_fit_tells_what_is_sent() -> None:
    asked = replace(REQUEST, shapes={"ranker": {"x": (3,)}}, request_batch_sizes=(4,))
    sized = replace(FITTED, configuration=replace(CONFIGURATION, request_batch_size=4))
    row = fitted_measurement(asked, RANKER, sized, "now").row
    assert (row.requests, row.request_batch_size, row.rate_rps, row.concurrency) == ("x 3", 4, 100.0, 2)


def test_a_measured_point_of_a_configuration_stands_alone() -> None:
    fit, real = fitted_measurement(REQUEST, RANKER, FITTED, "now").row, measured(300, 2).row
    assert by_configuration([fit]) == [[fit]]
    assert by_configuration([fit, real]) == [[real]]


def test_what_a_closed_loop_showed() -> None:
    one = measured(100, 1, throughput_interval_rps=[90, 110])
    best = measured(380, 8, throughput_interval_rps=[361, 399], client_bound=True, cpu={"others_busy": 0.3})
    found = seen(CONFIGURATION, [one, best])
    assert (found.inferences_per_s, found.lone_ms, found.memory_bytes) == (380, 10.0, 52_000_000)
    assert found.noise == pytest.approx(0.05)
    assert found.client_bound
    assert found.disturbed
    assert seen(CONFIGURATION, []).failed
    shared = measured(200, 8, cpu={"cores": CONFIGURATION.instances, "others_busy": 0.3, "stolen": 0.1})
    found = seen(CONFIGURATION, [measured(220, 4), replace(shared, row=replace(shared.row, busy=0.6))])
    assert (found.inferences_per_s, found.busy) == (pytest.approx(200 / 0.6), pytest.approx(1.0)), "others' time back"
    assert not found.disturbed
    many = replace(shared, row=replace(shared.row, busy=0.6), statistics={"cpu": {"cores": 99, "others_busy": 0.4}})
    found = seen(CONFIGURATION, [many])
    assert (found.inferences_per_s, found.disturbed) == (200, True), "not every core had work of the server"
    assert not seen(CONFIGURATION, [one]).disturbed
    desktop = [{"pid": 7, "name": "Xorg"}]
    idle = measured(380, 8, gpu={"other_processes": desktop, "utilization": 0.93, "busy": 0.9})
    working = measured(380, 8, gpu={"other_processes": desktop, "utilization": 0.93, "busy": 0.5})
    assert not seen(CONFIGURATION, [idle]).disturbed
    assert seen(CONFIGURATION, [working]).disturbed


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ({"queue_ms": 2.0, "compute_infer_ms": 2.0}, True),
        ({"queue_ms": 0.1, "compute_infer_ms": 2.0}, False),
        ({"queue_ms": None, "compute_infer_ms": None}, False),  # Triton's statistics could not be read
        ({"queue_ms": 2.0, "compute_infer_ms": 2.0, "client_bound": True}, False),
    ],
)
def test_a_queue_shows_that_more_requests_at_once_bring_nothing(statistics: dict[str, object], expected: bool) -> None:
    assert is_saturated(measured(100, 8, **statistics)) is expected


@pytest.mark.parametrize(
    ("sources", "weakest"),
    [
        (["measured", "fitted"], "fitted"),
        (["fitted", "published: a paper"], "fitted"),
        (["estimated", "fitted"], "estimated"),
        ([], "measured"),
    ],
)
def test_a_fit_is_more_certain_than_an_estimate_and_less_than_anything_that_ran(
    sources: list[str], weakest: str
) -> None:
    assert Source.weakest(sources) == weakest


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    store = open_store("sqlite:///profiles.db")
    base = ProfileRow(model=SERVER_ROW, device="cpu-1", memory_bytes=30_000_000)
    store.add([fitted_measurement(REQUEST, RANKER, FITTED, "now"), Measurement(key="base", row=base)])
    store.close()
    return tmp_path


def test_every_view_marks_it(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "show", "ranker"]) == 0
    shown = capsys.readouterr().out
    assert "fitted, not measured: 1 x 4, closed 8" in shown
    assert "±3%" in shown
    [line] = [line for line in shown.splitlines() if line.strip().startswith("1 x 4") and "closed 8" in line]
    assert line.split()[-1] == "fitted"
    for command in (["compare", "--by", "memory"], ["list"]):
        assert run(["profiles", *command]) == 0
        assert "fitted" in capsys.readouterr().out
    assert run(["profiles", "report", "-o", "page.html"]) == 0
    page = (project / "page.html").read_text()
    assert "Profiles are fitted." in page
    assert "It was not measured: its figures follow from laws that held for its neighbours." in page


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_it_goes_out_and_in_again_as_fitted(project: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["profiles", "export", name]) == 0
    assert run(["profiles", "import", name, "--store", "sqlite:///other.db"]) == 0
    store = open_store("sqlite:///other.db")
    [row] = store.rows(model="ranker")
    store.close()
    assert (row.source, row.rate_rps, row.latency_p99_ms) == ("fitted", 400.0, None)


def test_a_plan_says_how_much_of_it_rests_on_fits_and_keeps_no_bound_with_them(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workload = "schema_version: 1\nmodels: [{name: ranker, rate_rps: 100%s}]\n"
    (project / "workload.yaml").write_text(workload % "")
    assert run(["solve", "--gpus", "1xcpu-1", "--solver", "greedy"]) == 0
    assert "the only replica rests on fitted profiles" in capsys.readouterr().err
    plan = json.loads((project / "plan" / "plan.json").read_text())
    assert [replica["source"] for replica in plan["replicas"]] == ["fitted"]
    (project / "workload.yaml").write_text(workload % ", latency_p99_ms: 100")
    assert run(["solve", "--gpus", "1xcpu-1", "--solver", "greedy"]) == 3
    assert "its rate is fitted, and latency percentiles never are" in capsys.readouterr().err


def test_measuring_replaces_it(project: Path) -> None:
    store = open_store("sqlite:///profiles.db")
    store.add([measured(380, 8)])
    [row] = store.rows(model="ranker")
    store.close()
    assert (row.source, row.rate_rps) == ("measured", 380)


def test_a_closed_loop_s_latency_does_not_speak_for_a_configuration_beside_those_with_open_traffic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second configuration looks better, but what it looks at is no open traffic."""
    monkeypatch.chdir(tmp_path)
    head = (
        "model,device,instances,max_batch_size,load,concurrency,offered_rps,rate_rps,latency_p99_ms,memory_bytes,busy\n"
    )
    base = "@server,cpu-1,,,,,,,,30000000,\n"
    opened = "ranker,cpu-1,1,4,open,,120,120,20,50000000,0.5\n"
    closed = "ranker,cpu-1,2,4,closed,4,,200,5,60000000,0.4\n"
    (tmp_path / "workload.yaml").write_text(
        "schema_version: 1\nmodels: [{name: ranker, rate_rps: 100, latency_p99_ms: 50}]\n"
    )
    for rows, instances in ((opened + closed, 1), (closed, 2)):
        (tmp_path / "p.csv").write_text(head + base + rows)
        assert run(["solve", "--gpus", "1xcpu-1", "--solver", "greedy", "--profiles", "p.csv"]) == 0
        [replica] = json.loads((tmp_path / "plan" / "plan.json").read_text())["replicas"]
        assert replica["instances"] == instances
