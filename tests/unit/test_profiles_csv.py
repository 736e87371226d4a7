"""Profiles as CSV and Parquet."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.domain.profile import ProfileRow
from planner.domain.serving import LoadMode
from planner.errors import InputError, NotFoundError, SetupError
from planner.inputs.profiles_csv import COLUMNS, csv_text, parquet_bytes, read_profiles, write_profiles

GOLDEN = Path(__file__).parents[1] / "golden"
HEAD = "model,device,instances,max_batch_size,rate_rps,latency_p99_ms"

numbers = st.floats(min_value=0, max_value=1e300) | st.none()
words = st.text(st.characters(codec="utf-8"), max_size=8).filter(
    lambda t: t == t.strip() and "\r" not in t and t.lower() != "nan"
)
rows = st.builds(
    ProfileRow,
    model=words.filter(lambda t: t and not t.startswith("@")),
    device=words.filter(bool),
    gpus=st.integers(1, 8),
    backend=words,
    instances=st.integers(1, 2**40),
    max_batch_size=st.integers(0, 512),
    queue_delay_us=st.integers(0, 10**9) | st.none(),
    load=st.sampled_from(LoadMode),
    concurrency=st.integers(0, 4096) | st.none(),
    offered_rps=numbers,
    rate_rps=numbers,
    latency_mean_ms=numbers,
    latency_p99_ms=numbers,
    memory_bytes=st.integers(0, 2**62) | st.none(),
    busy=st.floats(0, 1) | st.none(),
    executed_batch_mean=numbers,
    stable=st.booleans(),
    failed=st.integers(0, 9),
    model_digest=words,
    source=st.sampled_from(["measured", "imported", "estimated", 'published: "a", b\nc']),
)
overhead = st.builds(ProfileRow, model=st.sampled_from(["@server", "@backend:x"]), device=st.just("L4"),
                     memory_bytes=st.integers(0, 2**40))  # fmt: skip


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "p.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@settings(deadline=None)
@given(st.lists(rows | overhead, min_size=1, max_size=5))
def test_csv_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, found: list[ProfileRow]) -> None:
    path = tmp_path_factory.mktemp("csv") / "p.csv"
    write_profiles(found, path)
    assert read_profiles(path) == found


@settings(deadline=None)
@given(st.lists(rows | overhead, min_size=1, max_size=3))
def test_parquet_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, found: list[ProfileRow]) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("parquet") / "p.parquet"
    write_profiles(found, path)
    assert read_profiles(path) == found


def test_version_1_is_still_read() -> None:
    found = read_profiles(GOLDEN / "profiles-v1.csv")
    assert [r.model for r in found] == ["@server", "@backend:onnxruntime", "ranker", "ranker"]
    assert found[0].memory_bytes == 509_000_000
    assert (found[2].queue_delay_us, found[3].queue_delay_us) == (None, 0)
    assert (found[2].load, found[3].load) == (LoadMode.CLOSED, LoadMode.OPEN)
    assert found[3].source == "published: a paper, 2026"
    assert not found[3].stable
    written = [line.rsplit(",", 2)[0] for line in csv_text(found).splitlines()]  # without variant and requests
    assert written == (GOLDEN / "profiles-v1.csv").read_text().splitlines()


def test_the_promised_columns() -> None:
    assert ",".join(COLUMNS) == (
        "model,device,gpus,backend,instances,max_batch_size,queue_delay_us,load,request_batch_size,concurrency,"
        "offered_rps,rate_rps,latency_mean_ms,latency_p50_ms,latency_p90_ms,latency_p95_ms,latency_p99_ms,"
        "memory_bytes,memory_cold_bytes,busy,power_watts,executed_batch_mean,stable,failed,load_generator,"
        "model_digest,source,variant,requests"
    )


def test_absent_columns_and_empty_cells_take_defaults(tmp_path: Path) -> None:
    (row,) = read_profiles(write(tmp_path, f"\ufeff{HEAD},gpus,stable\n\nm , A100-80,2.0,8,10, 5.5,NaN,\n"))
    assert row == ProfileRow(
        model="m", device="A100-80", instances=2, max_batch_size=8, rate_rps=10.0, latency_p99_ms=5.5
    )


def test_overhead_rows_need_only_device_and_memory(tmp_path: Path) -> None:
    (row,) = read_profiles(write(tmp_path, "model,device,memory_bytes\n@server,L4,5\n"))
    assert row == ProfileRow(model="@server", device="L4", memory_bytes=5)


def test_an_unknown_rate_or_percentile_may_stay_empty(tmp_path: Path) -> None:
    (row,) = read_profiles(write(tmp_path, f"{HEAD}\nm,L4,1,1,,\n"))
    assert (row.rate_rps, row.latency_p99_ms) == (None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}\nm,L4,1,1,x,5\n", "p.csv:2: column rate_rps: 'x' is not a finite number"),
        (f"{HEAD}\nm,L4,1,1,inf,5\n", "column rate_rps: 'inf' is not a finite number"),
        (f"{HEAD}\nm,L4,1,1,-1,5\n", "p.csv:2: profile of 'm' on 'L4': rate_rps must be a number >= 0, got -1"),
        (f"{HEAD}\nm,L4,1.5,1,1,5\n", "column instances: '1.5' is not a whole number"),
        (f"{HEAD}\nm,L4,inf,1,1,5\n", "column instances: 'inf' is not a whole number"),
        (f"{HEAD}\nm,L4,0,1,1,5\n", "instances must be at least 1, got 0"),
        (f"{HEAD},stable\nm,L4,1,1,1,5,maybe\n", "column stable: 'maybe' is not true or false"),
        (f"{HEAD},load\nm,L4,1,1,1,5,half\n", "column load: 'half' is not one of closed, open"),
        (f"{HEAD},source\nm,L4,1,1,1,5,guess\n", "source must be one of measured"),
        (f"{HEAD},latency_p9_ms\n", "p.csv:1: unknown column 'latency_p9_ms'; did you mean latency_p99_ms"),
        (f"{HEAD},model\n", "column 'model' is given twice"),
        ("model,instances\n", "column 'device' is missing"),
        (
            "model,device,memory_bytes\nm,L4,1\n",
            "columns are missing: instances, max_batch_size, rate_rps, latency_p99_ms",
        ),
        ("model,device,memory_bytes\n@server,L4,\n", "p.csv:2: column memory_bytes: a value is needed"),
        (f"{HEAD}\nm,,1,1,1,5\n", "column device: a value is needed"),
        (f"{HEAD}\nm,L4,1,1,1,5,6\n", "p.csv:2: 7 cells, but the first line names 6 columns"),
        (f'{HEAD}\n"m,L4,1,1,1,5\n', "p.csv:2: not valid CSV: unexpected end of data"),
        (HEAD, "there is no profile in it"),
        ("", "the file is empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"PAR1nonsense", "not a readable Parquet file"),
    ],
)
def test_errors_name_file_line_column_and_value(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_profiles(write(tmp_path, text))
    assert message in caught.value.message


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_profiles(tmp_path / "none.csv")


def test_a_text_that_would_not_come_back_is_not_written() -> None:
    with pytest.raises(InputError, match="begins or ends with a space"):
        csv_text([ProfileRow(model=" m", device="L4")])


def test_parquet_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SetupError) as caught:
        parquet_bytes([ProfileRow(model="m", device="L4")])
    assert caught.value.hint is not None
    assert "planner[parquet]" in caught.value.hint
