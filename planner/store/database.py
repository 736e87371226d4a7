"""Profiles in a database: SQLite in a file by default, PostgreSQL by URL."""

from __future__ import annotations

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import (
    Connection,
    Engine,
    create_engine,
    delete,
    event,
    func,
    insert,
    inspect,
    literal,
    select,
    update,
)
from sqlalchemy.engine import URL, RowMapping, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool, StaticPool

from planner.domain.profile import Measurement, ProfileRow, ProfileStore
from planner.domain.serving import LoadMode
from planner.errors import Incomplete, InputError, NotFoundError, PlannerError, SetupError
from planner.store.schema import ADDED, SCHEMA_VERSION, measurement, metadata, store_version

BUSY_TIMEOUT_S = 30.0
WAL_TRIES, WAL_PAUSE_S = 100, 0.05
_KEYS_PER_STATEMENT = 500
_ROW_FIELDS = tuple(f.name for f in fields(ProfileRow))
_CREATE_HINT = "fill it with planner measure or planner profiles import"


def open_store(url: str, *, must_exist: bool = False, busy_timeout_s: float = BUSY_TIMEOUT_S) -> ProfileStore:
    """Open or create the store at a URL such as sqlite:///profiles.db (a bare path means SQLite).

    `must_exist`: for reading; a missing store is a NotFoundError, no file appears, and a store of an older
    version stays as it is. Else it becomes one of this version.
    """
    parsed = _parse(url)
    name = parsed.render_as_string(hide_password=True)
    if parsed.get_backend_name() == "sqlite":
        name = parsed.database or "sqlite in memory"
        _require_file(parsed, must_exist)
        engine = _sqlite_engine(parsed, busy_timeout_s)
    else:
        engine = _server_engine(parsed, name)
    try:
        with _explained(name):
            version = _prepare(engine, name, upgrade=not must_exist)
    except PlannerError:
        engine.dispose()
        raise
    return DatabaseStore(engine, name, version)


class DatabaseStore:
    """The protocol ProfileStore over one table; every call is one transaction."""

    def __init__(self, engine: Engine, name: str, version: int = SCHEMA_VERSION) -> None:
        self._engine = engine
        self._name = name
        absent = {column for later, column in ADDED.items() if later > version}
        self._columns = [literal("").label(c.name) if c.name in absent else c for c in measurement.columns]

    def add(self, measurements: Iterable[Measurement]) -> None:
        records = {m.key: _record(m) for m in measurements}
        if not records:
            return
        with self._transaction() as connection:
            for keys in _chunks(list(records)):
                connection.execute(delete(measurement).where(measurement.c.key.in_(keys)))
            connection.execute(insert(measurement), list(records.values()))

    def keys(self) -> Collection[str]:
        with self._transaction() as connection:
            return set(connection.scalars(select(measurement.c.key).where(measurement.c.failure.is_(None))))

    def get(self, key: str) -> Measurement | None:
        with self._transaction() as connection:
            query = select(*self._columns).where(measurement.c.key == key)
            found = connection.execute(query).mappings().first()
        return None if found is None else self._measurement(found)

    def rows(self, *, model: str | None = None, device: str | None = None) -> list[ProfileRow]:
        columns = [column for column in self._columns if column.name in _ROW_FIELDS]
        query = select(*columns).where(measurement.c.failure.is_(None), *_filters(model, device))
        with self._transaction() as connection:
            found = connection.execute(query).mappings().all()
        return sorted((self._row(record) for record in found), key=_order)

    def measurements(self, *, model: str | None = None, device: str | None = None) -> list[Measurement]:
        with self._transaction() as connection:
            found = connection.execute(select(*self._columns).where(*_filters(model, device))).mappings().all()
        return sorted((self._measurement(record) for record in found), key=lambda m: _order(m.row))

    def remove(self, *, model: str | None = None, device: str | None = None) -> int:
        with self._transaction() as connection:
            return connection.execute(delete(measurement).where(*_filters(model, device))).rowcount

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with _explained(self._name), self._engine.begin() as connection:
            yield connection

    def _row(self, record: RowMapping) -> ProfileRow:
        values = {name: record[name] for name in _ROW_FIELDS}
        try:
            values["load"] = LoadMode(values["load"])
            return ProfileRow(**values)
        except (InputError, ValueError) as error:
            raise InputError(f"{self._name}: a row does not fit: {error}") from error

    def _measurement(self, record: RowMapping) -> Measurement:
        try:
            samples = json.loads(zlib.decompress(record["samples"]))
            statistics, environment = json.loads(record["statistics"]), json.loads(record["environment"])
        except (zlib.error, ValueError) as error:
            raise InputError(f"{self._name}: measurement {record['key']!r} is damaged: {error}") from error
        return Measurement(
            key=record["key"],
            row=self._row(record),
            samples={name: tuple(values) for name, values in samples.items()},
            statistics=statistics,
            environment=environment,
            failure=record["failure"],
            measured_at=record["measured_at"],
        )


def _record(m: Measurement) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(m.row, name) for name in _ROW_FIELDS}
    values["load"] = m.row.load.value
    values["source"] = str(m.row.source)
    values.update(
        key=m.key,
        failure=m.failure,
        measured_at=m.measured_at,
        samples=zlib.compress(json.dumps({name: list(series) for name, series in m.samples.items()}).encode()),
        statistics=json.dumps(dict(m.statistics)),
        environment=json.dumps(dict(m.environment)),
    )
    return values


def _filters(model: str | None, device: str | None) -> list[Any]:
    wanted: Mapping[str, str | None] = {"model": model, "device": device}
    return [measurement.c[name] == value for name, value in wanted.items() if value is not None]


def _order(row: ProfileRow) -> tuple[Any, ...]:
    # None sorts first: batching off, no load point.
    return tuple((value is not None, value) for value in (*row.configuration, row.load, row.rate_rps))


def _chunks(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _KEYS_PER_STATEMENT):
        yield keys[start : start + _KEYS_PER_STATEMENT]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url if ":" in url and "://" in url else f"sqlite:///{url}")
    except ArgumentError as error:
        raise InputError("store: this is not a URL", hint="write for example sqlite:///profiles.db") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(
            f"store: {parsed.get_backend_name()} is not supported",
            hint="allowed are sqlite:///FILE and postgresql+psycopg://HOST/DATABASE",
        )
    if parsed.get_backend_name() == "sqlite" and parsed.host:
        # SQLAlchemy would take this for a database in memory, and everything would be lost at the end.
        raise InputError(f"store {url}: three slashes go before the file", hint=f"sqlite:///{parsed.host}")
    return parsed


def _in_memory(url: URL) -> bool:
    return url.database in (None, "", ":memory:")


def _require_file(url: URL, must_exist: bool) -> None:
    if _in_memory(url):
        return
    path = Path(str(url.database))
    if path.is_dir():
        raise InputError(f"store {path}: this is a folder, a file is needed")
    if not path.parent.is_dir():
        raise NotFoundError(f"store {path}: the folder {path.parent} does not exist")
    if must_exist and not path.exists():
        raise NotFoundError(f"store {path}: there is no such file", hint=_CREATE_HINT)


def _sqlite_engine(url: URL, busy_timeout_s: float) -> Engine:
    if _in_memory(url):
        return create_engine("sqlite://", poolclass=StaticPool)
    path = Path(str(url.database)).resolve()
    uri = f"file:{quote(str(path))}"
    folder_writable = os.access(path.parent, os.W_OK)
    if path.exists() and not (os.access(path, os.W_OK) and folder_writable):
        # WAL needs to write beside the file even for reading, unless nobody can be changing it.
        pending = path.with_name(path.name + "-wal").exists()
        uri += "?mode=ro" if folder_writable or pending else "?mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=busy_timeout_s, check_same_thread=False)

    # One connection per transaction: nothing is shared between threads or over a fork.
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _durable(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = FULL")

    return engine


def _server_engine(url: URL, name: str) -> Engine:
    try:
        return create_engine(url, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError) as error:
        raise SetupError(
            f"store {name}: the driver for PostgreSQL is missing ({error})",
            hint="pip install 'psycopg[binary]' and write postgresql+psycopg://…",
        ) from error


def _prepare(engine: Engine, name: str, *, upgrade: bool) -> int:
    """Create the tables in an empty database; refuse one that is not ours or of a version not known.

    Returns the version that the tables have then.
    """
    with engine.connect() as connection:
        tables = set(inspect(connection).get_table_names())
    if not tables:
        _create(engine)
    elif store_version.name not in tables:
        raise InputError(
            f"store {name}: a database, but not a profile store", hint="name another file; this one is left as it is"
        )
    version = _version(engine)
    if version not in range(1, SCHEMA_VERSION + 1):
        raise InputError(f"store {name}: schema_version {version} is unknown; this version reads 1 to {SCHEMA_VERSION}")
    return _upgraded(engine) if upgrade and version < SCHEMA_VERSION else version


def _version(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(select(func.max(store_version.c.schema_version))) or 0)


def _upgraded(engine: Engine) -> int:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        # Two runs may come here at the same moment: the second one waits, and finds it done.
        for version, column in ADDED.items():
            old = store_version.c.schema_version == version - 1
            if connection.execute(update(store_version).where(old).values(schema_version=version)).rowcount:
                connection.exec_driver_sql(f"ALTER TABLE measurement ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")
        connection.commit()
    return SCHEMA_VERSION


def _create(engine: Engine) -> None:
    sqlite = engine.dialect.name == "sqlite"
    with engine.connect() as connection:
        if sqlite:
            _use_wal(connection)
            # Two runs may create the store at the same moment: the second waits here, then finds the tables.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        metadata.create_all(connection)
        if connection.scalar(select(func.count()).select_from(store_version)) == 0:
            connection.execute(insert(store_version).values(schema_version=SCHEMA_VERSION))
        connection.commit()


def _use_wal(connection: Connection) -> None:
    """SQLite does not wait here for another run that opens the new file at the same moment; so we do."""
    for tries_left in reversed(range(WAL_TRIES)):
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            if not tries_left or "locked" not in str(error.orig).lower():
                raise
            connection.rollback()
            time.sleep(WAL_PAUSE_S)
        else:
            return


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Database errors as ours: what happened to which store, and what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _translated(name, str(error.orig)) from error
    except OverflowError as error:
        raise InputError(f"store {name}: a number is too large to be kept") from error
    except UnicodeEncodeError as error:
        raise InputError(f"store {name}: a text is not valid Unicode: {error.object!r}") from error


def _translated(name: str, text: str) -> PlannerError:
    lowered = text.lower()
    subject = f"store {name}"
    if "locked" in lowered or "busy" in lowered:
        return Incomplete(f"{subject}: locked by another run", hint="wait for that run to end, or use another --store")
    if "full" in lowered:
        return Incomplete(
            f"{subject}: the disk is full", hint="make room and run again; what was stored before is kept"
        )
    if "disk i/o error" in lowered:
        return Incomplete(
            f"{subject}: the disk reports an error", hint="check the disk; what was stored before is kept"
        )
    if "readonly" in lowered or "read-only" in lowered:
        return InputError(f"{subject}: may not be written", hint="check the permissions, or name another --store")
    if "not a database" in lowered:
        return InputError(f"{subject}: not an SQLite database", hint="import CSV files with planner profiles import")
    if "malformed" in lowered:
        return InputError(f"{subject}: the database is damaged", hint="restore it, or measure into another --store")
    if "unable to open" in lowered:
        return InputError(f"{subject}: cannot be opened", hint="check the permissions of the file and its folder")
    return InputError(f"{subject}: {text.splitlines()[0] if text else 'unknown error'}")
