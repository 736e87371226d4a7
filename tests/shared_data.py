"""Data measured by others, beside the repository and never in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_file(name: str) -> Path:
    """A file of the data folder; the test is skipped where it is absent, and fails if PLANNER_SHARED is set."""
    named = os.environ.get("PLANNER_SHARED")
    path = (Path(named) if named else REPOSITORY.parent / "shared") / "data" / name
    if not path.exists():
        if named:
            pytest.fail(f"PLANNER_SHARED is set, but {path} is missing")
        pytest.skip(f"measured data of others is absent: {name}")
    return path
