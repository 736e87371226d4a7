"""planner profiles: list, show, compare, import, export, remove; and the tables behind them."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared_file

from planner.cli import run
from planner.domain.profile import Measurement, ProfileRow
from planner.inputs.profiles_csv import read_profiles
from planner.profile_views.tables import compare, summaries
from planner.store.database import open_store

CSV = """\
model,device,instances,max_batch_size,queue_delay_us,load,concurrency,offered_rps,rate_rps,latency_p99_ms,memory_bytes,stable
@server,L4,,,,,,,,,509000000,
@backend:b,L4,,,,,,,,,900000000,
ranker,L4,1,1,,closed,1,,100,5,162000000,
ranker,L4,1,1,,closed,2,,150,9,163000000,
ranker,L4,1,1,,closed,4,,140,40,163000000,false
ranker,L4,2,8,0,open,,200,199,30,300000000,
ranker,A10,1,1,,closed,1,,120,4,,
other,L4,1,4,,closed,1,,10,,50000000,
"""

GOLDEN = Path(__file__).parents[1] / "golden"

Planner = Callable[..., tuple[int, str, str]]


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Planner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["profiles", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def filled(planner: Planner) -> Planner:
    Path("p.csv").write_text(CSV)
    assert planner("import", "p.csv")[0] == 0
    return planner


def rows() -> list[ProfileRow]:
    return read_profiles(Path("p.csv"))


def test_list(filled: Planner) -> None:
    code, out, _ = filled("list")
    assert code == 0
    assert "L4: peak stable rate" in out
    assert "ranker      1       1        3      150        9         -      163" in out
    assert "whole" in out
    assert "@backend:b" in out
    assert max(map(len, out.splitlines())) <= 80
    data = json.loads(filled("list", "--json", "--model", "ranker", "--device", "L4")[1])
    assert [c["peak_rps"] for c in data["configurations"]] == [150.0, 199.0]
    assert [o["memory_bytes"] for o in data["overheads"]] == [509_000_000, 900_000_000]


def test_list_shows_the_best_of_each_instance_count_unless_told(planner: Planner) -> None:
    head = "model,device,instances,max_batch_size,rate_rps,latency_p99_ms\n"
    Path("p.csv").write_text(head + "m,L4,1,1,10,5\nm,L4,1,2,20,5\n")
    assert planner("import", "p.csv")[0] == 0
    assert "2 configurations in all; --all shows each of them" in planner("list")[1]
    assert "--all" not in planner("list", "--all")[1]


def test_show(filled: Planner) -> None:
    code, out, _ = filled("show", "ranker")
    assert code == 0
    assert "ranker on L4: 4 points" in out
    assert "1 x 1 " in out
    assert "closed 4" in out
    assert "open 200" in out
    assert len(json.loads(filled("show", "ranker", "--json", "--device", "A10")[1])) == 1
    code, _, err = filled("show", "rank")
    assert code == 2
    assert "model 'rank' has no profile; models with profiles: other, ranker" in err


def test_show_prints_intervals_and_failures(planner: Planner) -> None:
    slow = tuple(0.001 * (i % 50) for i in range(2500))
    row = ProfileRow(
        model="m", device="L4", concurrency=4, rate_rps=100.0, latency_p99_ms=49.0, queue_delay_us=0, max_batch_size=8
    )
    store = open_store("profiles.db")
    store.add(
        [
            Measurement(key="a", row=row, statistics={"throughput_interval_rps": [95.5, 104.5], "queue_ms": 1.5},
                        samples={"latency_s": slow}),
            Measurement(key="b", row=replace(row, concurrency=8), failure="the server died\nlast words"),
        ]
    )  # fmt: skip
    store.close()
    code, out, _ = planner("show", "m")
    assert code == 0
    assert "m on L4: 1 points, latencies in ms" in out
    assert "±4%" in out
    assert re.search(r"\b4[789](\.\d)?\.\.(49|\?)", out)
    assert "failed: 1 x 8, closed 8: the server died" in out
    assert "last words" not in out
    assert max(map(len, out.splitlines())) <= 80
    first, second = json.loads(planner("show", "m", "--json")[1])
    assert (first["rate_interval_rps"], first["queue_ms"], first["failure"]) == ([95.5, 104.5], 1.5, None)
    assert (second["latency_p99_interval_ms"], second["failure"]) == (None, "the server died\nlast words")


def test_compare(filled: Planner) -> None:
    code, out, err = filled("compare", "--p99", "10", "--price", "L4=0.72")
    assert code == 0
    assert "By busy within p99 10 ms" in out
    assert re.search(r"ranker +L4 +1 x 1 +150 +9 +163 +6,667 +1.33", out)
    assert re.search(r"ranker +A10 +1 x 1 +120 +4 +whole +8,333 +-", out)
    assert max(map(len, out.splitlines())) <= 80
    assert "energy is not known: the records have no power" in err
    assert "cost is not known on A10: give its price per hour, --price A10=USD" in err
    assert "other: no stable point within p99 10 ms" in err
    assert "busy time of ranker on A10, ranker on L4 was not measured" in err
    data = json.loads(filled("compare", "--json", "--model", "ranker")[1])
    assert data["best"]["ranker"]["L4"]["peak_rps"] == 199.0
    assert data["devices"] == ["A10", "L4"]
    assert [r["inferences_per_s"] for r in data["ranking"]] == [199.0, 120.0]
    assert data["ranking"][0]["energy_wh_per_million"] is None
    assert filled("compare", "--device", "T4")[0] == 2
    assert filled("compare", "--model", "none")[0] == 2


def test_compare_ranks_every_configuration_by_what_is_asked(filled: Planner) -> None:
    data = json.loads(filled("compare", "--json", "--all", "--by", "memory")[1])
    assert [r["memory_bytes"] for r in data["ranking"]] == [50_000_000, 163_000_000, 300_000_000, None]
    assert "4 configurations in all; --all shows each of them" in filled("compare")[1]
    assert "By rate on L4" in filled("compare", "--by", "rate", "--device", "L4")[1]


def test_bounds_and_prices_from_files(filled: Planner) -> None:
    Path("workload.yaml").write_text("schema_version: 1\nmodels: [{name: ranker, rate_rps: 5, latency_p99_ms: 5}]\n")
    Path("fleet.yaml").write_text("schema_version: 1\nnodes: [{name: a, gpus: 1xL4, usd_per_hour: 3.6}]\n")
    data = json.loads(filled("compare", "--json", "--workload", "workload.yaml", "--model", "ranker")[1])
    assert [(r["device"], r["inferences_per_s"]) for r in data["ranking"]] == [("L4", 100.0), ("A10", 120.0)]
    assert [r["usd_per_million"] for r in data["ranking"]] == [pytest.approx(10.0), None]
    code, _, err = filled("compare", "--workload", "workload.yaml", "--p99", "5")
    assert code == 2
    assert "give --p99 or --workload, not both" in err


def test_report(filled: Planner) -> None:
    code, out, _ = filled("report", "-o", "all.html")
    assert code == 0
    assert out == "written: all.html\n"
    page = Path("all.html").read_text()
    assert "Profiles: 2 models on A10, L4" in page
    assert "<script" not in page
    assert not re.search(r"https?:|src=|url\(|@import", page)
    assert json.loads(filled("report", "other", "--json")[1]) == {"written": "profiles.html", "models": ["other"]}
    page = Path("profiles.html").read_text()
    assert "Profiles: other on L4" in page
    assert "ranker" not in page
    assert filled("report", "none")[0] == 2
    code, _, err = filled("report", "other", "--device", "A10")
    assert code == 2
    assert "there is no profile of a model to report on" in err


def test_import_twice_replaces_and_export_gives_it_back(filled: Planner) -> None:
    code, out, _ = filled("import", "p.csv")
    assert code == 0
    assert "imported 8 rows from p.csv (CSV)" in out
    assert filled("export", "out.csv")[0] == 0
    assert set(read_profiles(Path("out.csv"))) == set(rows())
    assert filled("export", "out.parquet", "--json")[0] == 0
    assert set(read_profiles(Path("out.parquet"))) == set(rows())
    _, out, _ = filled("export", "-", "--model", "other")
    assert [line.split(",")[0] for line in out.splitlines()] == ["model", "@backend:b", "@server", "other"]


def test_import_says_what_is_wrong_with_a_file(planner: Planner) -> None:
    Path("bad.csv").write_text("model,device\nm,L4\n")
    code, _, err = planner("import", "bad.csv")
    assert code == 2
    assert "error: bad.csv:1: columns are missing" in err
    assert not Path("profiles.db").exists()


def test_import_a_checkpoint_shows_the_memory_law(planner: Planner) -> None:
    path = str(shared_file("model_analyzer/resnet50_libtorch/0.ckpt"))
    code, out, err = planner("import", path)
    assert code == 0
    assert "backend pytorch: 893 MB once per server, inferred from resnet50_libtorch and vgg19_libtorch" in out
    assert "656" in out
    assert "past the knee" in err
    data = json.loads(planner("import", path, "--json")[1])
    assert data["rows"] == 1014
    assert len(data["laws"]) == 2
    one = str(shared_file("model_analyzer/single-model-ckpt/0.ckpt"))
    assert "overhead not known, it stays in each replica" in planner("import", one)[1]


def test_import_a_checkpoint_writes_its_tables(planner: Planner) -> None:
    path = str(shared_file("model_analyzer/single-model-ckpt/0.ckpt"))
    code, out, _ = planner("import", path, "--csv", "tables")
    assert code == 0
    assert "written: tables/metrics-model-inference.csv, tables/metrics-model-gpu.csv" in out
    golden = shared_file("model_analyzer/single-model-ckpt/golden-metrics-model-gpu.csv").read_text()
    assert Path("tables/metrics-model-gpu.csv").read_text().split() == golden.split()


def test_import_a_perf_analyzer_report(planner: Planner) -> None:
    report = str(GOLDEN / "perf_analyzer-2.60.0-concurrency.csv")
    sizes = ["--instances", "1", "--max-batch-size", "4", "--request-batch-size", "2"]
    code, out, err = planner("import", report, "--model", "m", "--device", "A100", *sizes, "--queue-delay", "off")
    assert code == 0
    assert "imported 4 rows" in out
    assert re.search(r"m +A100-80 +4", out)
    assert "past the knee" in err
    code, _, err = planner("import", report)
    assert code == 2
    assert "for example --model ranker" in err


def test_an_ensemble_keeps_its_variants_and_goes_out_and_in_again(planner: Planner) -> None:
    assert planner("import", str(shared_file("model_analyzer/ensemble-ckpt/0.ckpt")))[0] == 0
    assert planner("export", "out.parquet")[0] == 0
    assert planner("import", "out.parquet")[0] == 0
    data = json.loads(planner("list", "--json")[1])
    assert [c["points"] for c in data["configurations"]] == [5, 5, 5, 1]
    out = planner("show", "ensemble_add_sub")[1]
    assert re.search(r"add 1, sub 2 +- +closed 8 +2,866", out)
    Path("workload.yaml").write_text("schema_version: 1\nmodels: [{name: ensemble_add_sub, rate_rps: 5}]\n")
    assert run(["solve", "--gpus", "1xTITAN-RTX"]) == 3


def test_remove(filled: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = filled("remove")
    assert code == 2
    assert "needs --model or --device" in err
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = filled("remove", "--model", "ranker")
    assert code == 2
    assert "--yes" in err
    assert "removed 4 points" in filled("remove", "--model", "ranker", "--device", "L4", "--yes")[1]
    assert json.loads(filled("remove", "--device", "A10", "--yes", "--json")[1]) == {"removed": 1}


def test_remove_asks_on_a_terminal(filled: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert filled("remove", "--device", "A10")[0] == 130
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, _ = filled("remove", "--device", "A10")
    assert code == 0
    assert "removed 1 points" in out


@pytest.mark.parametrize("arguments", [["list"], ["show", "m"], ["compare"], ["report"], ["export", "x.csv"],
                                       ["remove", "--model", "m", "--yes"]])  # fmt: skip
def test_a_missing_store_is_not_created(planner: Planner, arguments: list[str]) -> None:
    code, _, err = planner(*arguments)
    assert code == 2
    assert "there is no such file" in err
    assert not Path("profiles.db").exists()


def some(**values: Any) -> ProfileRow:
    return ProfileRow(**{"model": "m", "device": "L4", "rate_rps": 1.0, **values})


def test_a_configuration_without_a_stable_point_has_no_peak() -> None:
    (summary,) = summaries([some(stable=False), some(failed=2), some(rate_rps=None)])
    assert (summary.points, summary.peak_rps, summary.latency_p99_ms, summary.memory_bytes) == (3, None, None, None)


def test_a_bound_leaves_out_points_whose_percentile_is_not_known() -> None:
    found = summaries([some(rate_rps=9.0), some(rate_rps=5.0, latency_p99_ms=3.0)], latency_p99_ms=4)
    assert [s.peak_rps for s in found] == [5.0]


def test_compare_has_a_gap_where_nothing_was_measured() -> None:
    found = compare([some(), some(model="n", device="T4", stable=False)])
    assert found.best["m"]["T4"] is None
    assert found.best["n"]["T4"] is None
    assert found.best["m"]["L4"] is not None
