"""Prices per hour of device types: from the catalogue, a fleet file, and options, the last one first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from planner.domain.fleet import Fleet
from planner.errors import InputError
from planner.inputs.catalogue import canonical_name, catalogue
from planner.inputs.fleet import read_fleet


def usd_per_hour(options: Iterable[str], fleet: Path | None) -> dict[str, float]:
    """USD per hour of one GPU (or slice, or CPU device) by name; a type without a price is absent."""
    known = {name: kind.usd_per_hour for name, kind in catalogue().items()}
    if fleet is not None:
        known.update(_fleet_prices(read_fleet(fleet)))
    known.update(_price(text) for text in options)
    return {name: price for name, price in known.items() if price is not None}


def _fleet_prices(fleet: Fleet) -> Mapping[str, float | None]:
    """Of the type, else what its GPUs cost by their nodes where they all cost the same."""
    found = {name: kind.usd_per_hour for name, kind in fleet.types.items()}
    for name in {gpu.type for gpu in fleet.gpus if found.get(gpu.type) is None}:
        prices = {gpu.usd_per_hour for gpu in fleet.gpus if gpu.type == name}
        found[name] = prices.pop() if len(prices) == 1 else None
    return found


def _price(text: str) -> tuple[str, float]:
    name, _, amount = text.rpartition("=")
    try:
        price = float(amount)
    except ValueError:
        price = math.nan
    if not name or not 0 <= price < math.inf:
        raise InputError(f"--price: {text!r} is not TYPE=USD, USD per hour >= 0; write for example A100-80=3.43")
    return canonical_name(name), price
