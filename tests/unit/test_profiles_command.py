"""planner profiles: list, show, compare, import, export, remove; and the tables behind them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared_file

from planner.cli import run
from planner.domain.profile import ProfileRow
from planner.errors import NotFoundError
from planner.inputs.profiles_csv import read_profiles
from planner.profile_views.tables import compare, points, summaries

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


def test_compare(filled: Planner) -> None:
    _, out, _ = filled("compare", "--p99", "10")
    assert "Best rate within p99 10 ms" in out
    assert "150/s" in out
    assert "whole device" in out
    data = json.loads(filled("compare", "--json", "--model", "ranker")[1])
    assert data["best"]["ranker"]["L4"]["peak_rps"] == 199.0
    assert data["devices"] == ["A10", "L4"]
    assert filled("compare", "--device", "T4")[0] == 2
    assert filled("compare", "--model", "none")[0] == 2


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


@pytest.mark.parametrize("arguments", [["list"], ["show", "m"], ["compare"], ["export", "x.csv"],
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


def test_points_of_an_unknown_model() -> None:
    with pytest.raises(NotFoundError, match="models with profiles: none"):
        points([], "m")
