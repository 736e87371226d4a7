"""Which cores the servers of a plan get on this machine, and which the load generators. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from planner.errors import InputError, SetupError

_FIT_NOTE = "devices and load generator do not fit on distinct cores: the devices ran one after another"
_GPU_NOTE = "devices ran one after another, so that the load generator was each GPU's alone"


@dataclass(frozen=True, slots=True)
class CoreShare:
    """`device` None: not pinned (a GPU's server)."""

    device: tuple[int, ...] | None
    generator: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CoreShares:
    """`waves`: devices that run at the same time, wave after wave. `notes` say where that is not the best."""

    by_device: Mapping[str, CoreShare]
    waves: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def share_cores(counts: Mapping[str, int | None], usable: Sequence[int], wanted: Sequence[int]) -> CoreShares:
    """Cores for every device. `counts`: cores of a CPU device, None for a GPU. `wanted`: the cores for devices,
    empty for the first ones that are usable.

    CPU devices run at the same time where they and the generator get distinct cores, all else one after another.
    """
    _require_usable(wanted, usable)
    pool = list(wanted) or list(usable)
    _require_enough(counts, pool)
    total = sum(count or 0 for count in counts.values())
    rest = [core for core in usable if core not in pool[:total]]
    if not counts:
        return CoreShares({}, (), ())
    if all(counts.values()) and total <= len(pool) and rest:
        left = iter(pool)
        shares = {name: CoreShare(tuple(islice(left, count)), tuple(rest)) for name, count in counts.items()}
        return CoreShares(shares, (tuple(counts),), ())
    return _one_after_another(counts, pool, usable)


def parse_cores(text: str) -> tuple[int, ...]:
    """ "0,2-3" as (0, 2, 3)."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"cores {text!r}: write for example 0 or 0,2-3")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(dict.fromkeys(found))


def _one_after_another(counts: Mapping[str, int | None], pool: Sequence[int], usable: Sequence[int]) -> CoreShares:
    shares = {}
    notes = []
    if len(counts) > 1:
        notes.append(_FIT_NOTE if all(counts.values()) else _GPU_NOTE)
    for device, count in counts.items():
        own = tuple(pool[: count or 0])
        rest = tuple(core for core in usable if core not in own)
        if not rest:
            notes.append(f"{device}: no core was left for the load generator, which took time from the server")
        shares[device] = CoreShare(own if count else None, rest or tuple(usable))
    return CoreShares(shares, tuple((device,) for device in counts), tuple(notes))


def _require_usable(wanted: Sequence[int], usable: Sequence[int]) -> None:
    missing = [core for core in wanted if core not in usable]
    if missing:
        known = ", ".join(map(str, usable))
        raise InputError(f"core {missing[0]} is not among the cores {known} that we may use")


def _require_enough(counts: Mapping[str, int | None], pool: Sequence[int]) -> None:
    for device, count in counts.items():
        if count is not None and count > len(pool):
            raise SetupError(
                f"{device} needs {count} cores, there are {len(pool)}",
                hint="run it on a machine that has them; --device chooses what runs here",
            )
