"""Options worth something on a device, as its search handles them: by exclusive group, the useless ones left out.

What an option needs stands in one long whole number, so that one subtraction compares all resources.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.domain.room import Place, Room


class Packing:
    """Pairs of fields per resource in one whole number, each with a guard bit above it.

    A replica fits where its use is at most what is free, and what the others use is at most what it bears. With
    the second turned around by `top`, both say: its field of `need` <= the same field of `room`. So it fits
    exactly where no guard bit is lost in `room - need`.
    """

    def __init__(self, resources: int, largest: int) -> None:
        self._width = largest.bit_length() + 2
        self._top = 1 << (self._width - 2)
        self.guards = sum(1 << (self._width * (i + 1) - 1) for i in range(2 * resources))

    def need(self, use: Sequence[int], limit: Sequence[int]) -> int:
        return self._packed([*use, *(self._top - (most - own) for own, most in zip(use, limit, strict=True))])

    def room(self, used: Sequence[int], capacity: Sequence[int]) -> int:
        """What a device still offers, guards set; no resource may be overused."""
        free = (most - own for own, most in zip(used, capacity, strict=True))
        return self._packed([*free, *(self._top - own for own in used)]) | self.guards

    def fits(self, need: int, room: int) -> bool:
        return (room - need) & self.guards == self.guards

    def _packed(self, fields: Sequence[int]) -> int:
        total = 0
        for value in reversed(fields):
            total = total << self._width | value
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """An option, or several of as many models that are alike in every number; each may stand there `most` times.

    `need` as in `Packing`. `worth` and `shares`: value and use as fractions of the largest.
    """

    options: tuple[str, ...]
    most: int
    group: int
    backend: str
    value: int
    use: tuple[int, ...]
    limit: tuple[int, ...]
    need: int
    worth: float
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Candidates:
    """`left[g]`: replicas that group g may have on one device. `unit` and `scale` undo `worth` and `shares`."""

    all: tuple[Candidate, ...]
    left: tuple[int, ...]
    packing: Packing
    unit: int
    scale: tuple[int, ...]


class NotSettled(Exception):
    """What the content of a device may be worth could not be found out; the text says why."""


@dataclass(slots=True)
class _Offer:
    """A place with the value of its option; `options` as in `Candidate`."""

    place: Place
    value: int
    need: int
    options: list[str]

    @property
    def most(self) -> int:
        return self.place.most or 0

    @property
    def numbers(self) -> object:
        """All that the search sees of it."""
        return self.value, self.need, self.place.limit, self.place.option.backend, self.most


def candidates_of(room: Room, values: Mapping[str, int]) -> Candidates:
    """Options of positive value that may stand beside others.

    The rest is never needed: a content stays feasible when a replica is taken away. Raises NotSettled where any
    number of replicas of one fits.
    """
    places = [place for place in room.shared if values.get(place.option.id, 0) > 0]
    for place in places:
        if place.most is None:
            raise NotSettled(f"any number of replicas of {place.option.id!r} fits on one {room.kind.name}")
    scale = tuple(max(1, *limits) for limits in zip(*(place.limit for place in places), strict=True))
    packing = Packing(len(scale), max(scale, default=1))
    of_group: dict[str, list[_Offer]] = {}
    for place in places:
        offer = _Offer(place, values[place.option.id], packing.need(place.use, place.limit), [place.option.id])
        of_group.setdefault(room.group[place.option.model], []).append(offer)
    groups = _merged({name: _undominated(row, room, packing) for name, row in of_group.items()})
    unit = max((offer.value for _, row in groups for offer in row), default=1)
    return Candidates(
        all=tuple(_candidate(o, group, unit, scale) for group, (_, row) in enumerate(groups) for o in row),
        left=tuple(_replicas_left(room, name, row) for name, row in groups),
        packing=packing,
        unit=unit,
        scale=scale,
    )


def _undominated(row: Sequence[_Offer], room: Room, packing: Packing) -> list[_Offer]:
    """Offers of one group without those that another one could replace anywhere, at no less value."""
    kept: list[_Offer] = []
    for offer in sorted(row, key=lambda o: (-o.value, o.need)):
        least = offer.need | packing.guards
        if not any(
            packing.fits(other.need, least)
            and (other.place.option.backend == offer.place.option.backend or not _overhead(room, other))
            for other in kept
        ):
            kept.append(offer)
    return kept


def _overhead(room: Room, offer: _Offer) -> int:
    return room.overheads[offer.place.option.backend]


def _merged(of_group: Mapping[str, list[_Offer]]) -> list[tuple[str, list[_Offer]]]:
    """Groups with a single offer of the same numbers become one, under (one of) their names."""
    groups: dict[object, tuple[str, list[_Offer]]] = {}
    for name, row in of_group.items():
        key = row[0].numbers if len(row) == 1 else name
        if key in groups:
            groups[key][1][0].options += row[0].options
        else:
            groups[key] = name, row
    return list(groups.values())


def _replicas_left(room: Room, name: str, row: Sequence[_Offer]) -> int:
    if len(row) == 1:
        return row[0].most * len(row[0].options)
    most = room.most_of_group[name]
    return sum(offer.most for offer in row) if most is None else most


def _candidate(offer: _Offer, group: int, unit: int, scale: Sequence[int]) -> Candidate:
    place = offer.place
    return Candidate(
        options=tuple(offer.options),
        most=offer.most,
        group=group,
        backend=place.option.backend,
        value=offer.value,
        use=place.use,
        limit=place.limit,
        need=offer.need,
        worth=offer.value / unit,
        shares=tuple(own / whole for own, whole in zip(place.use, scale, strict=True)),
    )
