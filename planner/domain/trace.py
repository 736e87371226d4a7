"""Requests as they came: what a simulation plays in place of Poisson arrivals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """By model the times of its requests, ascending, the first of all at 0; `seconds` from the first to the last."""

    name: str
    times_s: Mapping[str, Sequence[float]]
    seconds: float
