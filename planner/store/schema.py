"""The tables of the profile store, version 3. Version 1 had no `variant`, version 2 no `requests`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, LargeBinary, MetaData, String, Table, Text

from planner.domain.profile import ProfileRow

SCHEMA_VERSION = 3
ADDED = {2: "variant", 3: "requests"}
"""The text column that came with each version after the first."""

metadata = MetaData()

store_version = Table("planner_store", metadata, Column("schema_version", Integer, primary_key=True))

_TYPES: dict[str, Any] = {
    "str": Text,
    "int": BigInteger,
    "int | None": BigInteger,
    "float | None": Double,
    "bool": Boolean,
    "LoadMode": Text,
}
_INDEXED = frozenset({"model", "device"})

measurement = Table(
    "measurement",
    metadata,
    Column("key", String, primary_key=True),
    *(
        Column(f.name, _TYPES[str(f.type)], nullable="None" in str(f.type), index=f.name in _INDEXED)
        for f in fields(ProfileRow)
    ),
    Column("failure", Text),
    Column("measured_at", Text, nullable=False),
    Column("samples", LargeBinary, nullable=False),  # zlib over JSON: series name -> list of numbers
    Column("statistics", Text, nullable=False),
    Column("environment", Text, nullable=False),
)
"""One row per load point: every field of ProfileRow as a column, and what is needed to doubt it."""
