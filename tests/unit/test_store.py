"""The profile store: durable, shared by two runs, and clear about every way in which a database can fail."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import event, insert, select, update
from sqlalchemy.engine import Engine

from planner.domain.profile import Measurement, ProfileRow, ProfileStore
from planner.domain.serving import LoadMode
from planner.errors import Incomplete, InputError, NotFoundError, SetupError
from planner.store.database import DatabaseStore, open_store
from planner.store.schema import measurement as table
from planner.store.schema import store_version

OLD = {version: Path(__file__).parents[1] / "golden" / f"profiles-v{version}.sqlite" for version in (1, 2)}
GOLDEN = OLD[1]

ROW = ProfileRow(
    model="m", device="L4", gpus=2, backend="b", instances=3, max_batch_size=8, queue_delay_us=100, load=LoadMode.OPEN,
    request_batch_size=2, concurrency=4, offered_rps=9.5, rate_rps=9.1, latency_mean_ms=1.1, latency_p50_ms=1.0,
    latency_p90_ms=1.2, latency_p95_ms=1.3, latency_p99_ms=1.4, memory_bytes=2**40, memory_cold_bytes=5, busy=0.5,
    power_watts=70.5, executed_batch_mean=1.7, stable=False, failed=2, load_generator="builtin",
    model_digest="sha256:a", source="published: x", variant="add 1, sub 2",
    requests="x 3x5, sequences of 4",
)  # fmt: skip


def measured(key: str, row: ProfileRow = ROW, failure: str | None = None) -> Measurement:
    return Measurement(
        key=key,
        row=row,
        samples={"latency_s": (0.1, 1e-9, 3.0), "memory_bytes": ()},
        statistics={"inference_count": 3, "batch_stats": [{"batch_size": 1}]},
        environment={"cpu": "ü"},
        failure=failure,
        measured_at="2026-05-01T00:00:00+00:00",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "profiles.db"


@pytest.fixture
def store(path: Path) -> ProfileStore:
    return open_store(f"sqlite:///{path}")


def engine_of(store: ProfileStore) -> Engine:
    assert isinstance(store, DatabaseStore)
    return store._engine


def test_a_measurement_comes_back_whole(store: ProfileStore, path: Path) -> None:
    bare = measured("bare", ProfileRow(model="@server", device="L4"))
    store.add([measured("a"), bare])
    store.close()
    again = open_store(str(path), must_exist=True)
    assert again.get("a") == measured("a")
    assert again.get("bare") == bare
    assert again.get("c") is None
    assert again.rows() == [bare.row, ROW]


def test_the_same_key_replaces(store: ProfileStore) -> None:
    store.add([measured("a"), measured("a", failure="x")])
    assert store.rows() == []
    store.add([measured("a")])
    assert store.rows() == [ROW]
    store.add([])
    assert list(store.keys()) == ["a"]


def test_failed_points_are_kept_but_not_offered(store: ProfileStore) -> None:
    store.add([measured("a"), measured("b", failure="the server died")])
    assert set(store.keys()) == {"a"}
    assert store.rows() == [ROW]
    failed = store.get("b")
    assert failed is not None
    assert failed.failure == "the server died"


def test_rows_are_ordered_and_filtered(store: ProfileStore) -> None:
    found = [
        ProfileRow(model=m, device=d, max_batch_size=b, queue_delay_us=q, rate_rps=r)
        for m in "ab" for d in ("A10", "L4") for b in (1, 8) for q in (None, 0) for r in (None, 5.0, 30.0)
    ]  # fmt: skip
    store.add(measured(str(i), row) for i, row in enumerate(reversed(found)))
    assert store.rows() == found
    assert store.rows(model="a", device="L4") == [r for r in found if (r.model, r.device) == ("a", "L4")]
    assert store.remove(model="a") == 24
    assert store.remove(model="b", device="L4") == 12
    assert store.remove(model="none") == 0
    assert store.rows() == [r for r in found if (r.model, r.device) == ("b", "A10")]


def test_an_add_is_all_or_nothing(store: ProfileStore) -> None:
    store.add([measured("a")])
    too_large = measured("b", ProfileRow(model="m", device="L4", memory_bytes=2**70))
    with pytest.raises(InputError, match="too large"):
        store.add([measured("a", failure="x"), too_large])
    assert store.rows() == [ROW]


def test_in_memory() -> None:
    store = open_store("sqlite://")
    store.add([measured("a")])
    assert store.rows() == [ROW]
    store.close()


def test_version_1_is_still_read(tmp_path: Path) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(GOLDEN, copy)
    store = open_store(f"sqlite:///{copy}", must_exist=True)
    assert [r.model for r in store.rows()] == ["@backend:onnxruntime", "@server", "ranker"]
    failed = store.get("k3")
    assert failed is not None
    assert (failed.failure, failed.row.load, failed.samples) == (
        "out of memory",
        LoadMode.OPEN,
        {"latency_s": (0.1, 0.25)},
    )


@pytest.mark.parametrize("version", OLD)
def test_an_old_version_becomes_the_newest_when_it_is_written(tmp_path: Path, version: int) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(OLD[version], copy)
    before = open_store(str(copy), must_exist=True).rows()
    store = open_store(str(copy))
    store.add([measured("a")])
    again = open_store(str(copy), must_exist=True)
    assert again.rows() == sorted([*before, ROW], key=lambda row: row.model)
    assert again.get("a") == measured("a")
    with engine_of(again).connect() as connection:
        assert connection.scalars(select(store_version.c.schema_version)).all() == [3]


@pytest.mark.parametrize("version", OLD)
def test_an_old_version_stays_when_it_is_only_read(tmp_path: Path, version: int) -> None:
    copy = tmp_path / "old.db"
    shutil.copy(OLD[version], copy)
    before = copy.read_bytes()
    store = open_store(f"sqlite:///{copy}", must_exist=True)
    assert {row.variant for row in store.rows()} == ({""} if version == 1 else {"", "add 1, sub 2"})
    assert {row.requests for row in store.rows()} == {""}
    assert [m.failure for m in store.measurements(model="ranker")].count("out of memory") == 1
    store.close()
    assert copy.read_bytes() == before


def test_measurements_come_with_all_that_is_kept_of_them(store: ProfileStore) -> None:
    other = measured("b", ProfileRow(model="n", device="L4"))
    store.add([other, measured("a", failure="the server died")])
    assert store.measurements() == [measured("a", failure="the server died"), other]
    assert store.measurements(model="n", device="L4") == [other]
    assert store.measurements(device="A10") == []


WRITER = """
import sys
from planner.domain.profile import Measurement, ProfileRow
from planner.store.database import open_store
url, name = sys.argv[1:]
for i in range(40):
    store = open_store(url)
    store.add([Measurement(key=f"{name}-{i}-{k}", row=ProfileRow(model=name, device="L4")) for k in range(5)])
    store.close()
"""


def test_two_runs_share_one_store(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, f"sqlite:///{path}"]
    runs = [subprocess.Popen([*command, name], stderr=subprocess.PIPE) for name in ("a", "b")]
    errors = [run.communicate(timeout=120)[1].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(open_store(f"sqlite:///{path}").keys()) == 400


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file") as caught:
        open_store(f"sqlite:///{tmp_path}/none.db", must_exist=True)
    assert caught.value.hint is not None
    assert "planner profiles import" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_locked_store(store: ProfileStore, path: Path) -> None:
    impatient = open_store(f"sqlite:///{path}", busy_timeout_s=0.1)
    other = sqlite3.connect(path)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Incomplete, match="locked by another run"):
        impatient.add([measured("a")])
    assert impatient.rows() == []
    other.rollback()
    other.close()
    impatient.add([measured("a")])


def test_a_full_disk(store: ProfileStore) -> None:
    store.add([measured("a")])
    event.listen(engine_of(store), "connect", lambda c, _: c.execute("PRAGMA max_page_count = 8"))
    with pytest.raises(Incomplete, match="the disk is full") as caught:
        store.add(measured(f"k{i}") for i in range(1000))
    assert caught.value.hint is not None
    assert store.rows() == [ROW]


def test_a_read_only_store_is_read(store: ProfileStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add([measured("a")])
    store.close()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    frozen = open_store(f"sqlite:///{path}", must_exist=True)
    assert frozen.rows() == [ROW]
    with pytest.raises(InputError, match="may not be written"):
        frozen.add([measured("b")])


@pytest.mark.parametrize(
    "content", [b"hello, this is no database at all. " * 100, b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"not an SQLite database|damaged"):
        open_store(f"sqlite:///{path}").rows()
    assert path.read_bytes() == content


def test_a_damaged_store(store: ProfileStore, path: Path) -> None:
    store.add(measured(f"k{i}") for i in range(500))
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:8192] + b"\xee" * (len(whole) - 8192))
    with pytest.raises(InputError, match="damaged"):
        open_store(f"sqlite:///{path}").rows()


def test_rows_that_do_not_fit(store: ProfileStore) -> None:
    store.add([measured("a"), measured("b")])
    with engine_of(store).begin() as connection:
        connection.execute(update(table).where(table.c.key == "a").values(samples=b"x"))
        connection.execute(update(table).where(table.c.key == "b").values(load="half"))
    with pytest.raises(InputError, match="measurement 'a' is damaged"):
        store.get("a")
    with pytest.raises(InputError, match="a row does not fit"):
        store.rows()


def test_a_foreign_database_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (a)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="not a profile store"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_an_unknown_version(store: ProfileStore, path: Path) -> None:
    with engine_of(store).begin() as connection:
        connection.execute(insert(store_version).values(schema_version=7))
    with pytest.raises(InputError, match="schema_version 7 is unknown; this version reads 1 to 3"):
        open_store(f"sqlite:///{path}")


def test_bad_places(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="this is a folder"):
        open_store(f"sqlite:///{tmp_path}")
    with pytest.raises(NotFoundError, match="does not exist"):
        open_store(f"sqlite:///{tmp_path}/none/x.db")
    with pytest.raises(InputError, match="this is not a URL"):
        open_store("://")
    with pytest.raises(InputError, match="three slashes"):
        open_store("sqlite://profiles.db")
    with pytest.raises(InputError, match="mysql is not supported"):
        open_store("mysql://user:secret@host/db")


def test_postgresql_without_its_driver_never_shows_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(SetupError, match="driver for PostgreSQL is missing") as caught:
        open_store("postgresql+psycopg://user:secret@host/db")
    assert "secret" not in str(caught.value)
    assert caught.value.hint is not None
    assert "secret" not in caught.value.hint


def test_a_store_that_another_run_is_just_opening_is_waited_for(path: Path) -> None:
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("BEGIN")
    other.execute("SELECT * FROM sqlite_master").fetchall()  # it reads: nobody may change how the file is kept
    threading.Timer(0.3, other.rollback).start()
    store = open_store(f"sqlite:///{path}", busy_timeout_s=0.01)
    store.add([measured("a")])
    assert store.rows() == [ROW]
