"""Which GPU each column goes to, so that the rules between devices hold: node by node, then exchanges.

Like GPUs are told apart by their nodes, and by their pins. What does not hold in the end is left to
`solvers.mending`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.domain.problem import Device, Option, Problem
from solvers.columns.column import Column
from solvers.columns.instance import Instance
from solvers.columns.places import Load, Places
from solvers.stopping import stop_if_asked

Ints = NDArray[np.int64]
Pair = tuple[Option, Device]
ROUNDS = 4
# Of the nodes where a content breaks least, so many are asked for an exchange, and so many contents in each.
NODES_ASKED, ASKED_IN_NODE = 12, 8
BROKEN = 1e-9


@dataclass(slots=True, eq=False)
class _Seat:
    """`gpu`: the one that it is pinned to."""

    column: Column
    load: Load
    node: int
    gpu: tuple[Device, ...] | None = None


def seated(instance: Instance, problem: Problem, columns: Sequence[Column], until: float) -> list[Pair]:
    """The columns of `instance`, a relaxation of `problem`, on GPUs; no exchanges after `until`, a time.monotonic()."""
    return _Seating(instance, problem, columns).run(until)


class _Seating:
    def __init__(self, instance: Instance, problem: Problem, columns: Sequence[Column]) -> None:
        self._instance, self._problem = instance, problem
        self._waiting = list(columns)
        self._options = {column: _options(instance, column) for column in columns}
        self._places = Places(problem, [option for column in columns for option in self._options[column]])
        self._loads = {column: self._load(column) for column in self._options}
        # [groups, nodes]: whether the node has GPUs of the group; and these, and what stands there, by both.
        self._home = np.zeros((len(instance.groups), len(self._places.nodes)), np.bool_)
        self._gpus: dict[tuple[int, int], list[tuple[Device, ...]]] = {}
        self._seats: dict[tuple[int, int], list[_Seat]] = {}

    def run(self, until: float) -> list[Pair]:
        self._take_pinned()
        left = np.zeros((len(self._instance.groups), len(self._places.nodes)), np.int64)
        for (group, node), gpus in self._gpus.items():
            left[group, node] = len(gpus)
        for column in sorted(self._waiting, key=lambda c: -sum(self._loads[c].host)):
            stop_if_asked()
            worth = self._places.preferred(self._loads[column])
            node = int(np.where(left[column.group] > 0, worth, np.inf).argmin())
            left[column.group, node] -= 1
            self._put(_Seat(column, self._loads[column], node))
        for _ in range(ROUNDS):
            moved = [self._improve(seat, left) for seat in self._all() if time.monotonic() < until]
            if not any(moved):
                break
        return list(self._pairs())

    def _load(self, column: Column) -> Load:
        kinds = self._instance.groups[column.group].kinds
        return self._places.load(self._options[column], self._instance.items[kinds[0]].kind)

    def _take_pinned(self) -> None:
        """Contents with the pinned models go to their GPUs first, or else those that take least: they make room."""
        pins: dict[str, set[str]] = {}
        for pin in self._problem.pinned:
            pins.setdefault(pin.gpu, set()).add(pin.model)
        waiting = [[column for column in self._waiting if column.group == g] for g in range(len(self._instance.groups))]
        full = {column: self._fullness(column) for column in (self._options if pins else ())}
        for number, group in enumerate(self._instance.groups):
            for gpu in group.gpus:
                node, models = self._places.number[gpu[0].node], pins.get(gpu[0].gpu)
                self._home[number, node] = True
                if models and waiting[number]:
                    places = range(len(waiting[number]))
                    place = max(places, key=lambda p: self._suits(waiting[number][p], models, full))
                    column = waiting[number].pop(place)
                    self._put(_Seat(column, self._loads[column], node, gpu))
                else:
                    self._gpus.setdefault((number, node), []).append(gpu)
        self._waiting = [column for columns in waiting for column in columns]

    def _suits(self, column: Column, models: set[str], full: dict[Column, float]) -> tuple[int, float]:
        return len(models.intersection(o.model for o in self._options[column])), -full[column]

    def _fullness(self, column: Column) -> float:
        total = 0.0
        for kind, content in zip(self._instance.groups[column.group].kinds, column.contents, strict=True):
            items = self._instance.items[kind]
            total += float((items.use[list(content)].sum(axis=0) / items.capacity).sum())
        return total

    def _put(self, seat: _Seat) -> None:
        self._places.put(seat.load, seat.node)
        self._seats.setdefault((seat.column.group, seat.node), []).append(seat)

    def _take(self, seat: _Seat) -> None:
        self._places.put(seat.load, seat.node, -1)
        self._seats[seat.column.group, seat.node].remove(seat)

    def _all(self) -> list[_Seat]:
        return [seat for seats in self._seats.values() for seat in seats if seat.gpu is None]

    def _improve(self, seat: _Seat, left: Ints) -> bool:
        """Move what breaks a rule to where it breaks less, or let it change places with another."""
        stop_if_asked()
        self._take(seat)
        broken, before, group = self._places.broken(seat.load), seat.node, seat.column.group
        if broken[before] > BROKEN:
            nodes = np.setdiff1d(np.flatnonzero(self._home[group]), [before])
            nodes = nodes[np.argsort(broken[nodes], kind="stable")]
            free = [n for n in nodes.tolist() if left[group, n] > 0 and broken[n] < broken[before] - BROKEN]
            partner = self._partner(seat, float(broken[before]), nodes[:NODES_ASKED].tolist())
            if partner is not None:
                self._take(partner)
                seat.node, partner.node = partner.node, before
                self._put(partner)
            elif free:
                seat.node = free[0]
                left[group, before] += 1
                left[group, seat.node] -= 1
        self._put(seat)
        return seat.node != before

    def _partner(self, seat: _Seat, broken: float, nodes: Sequence[int]) -> _Seat | None:
        """A content with which less is broken after an exchange; `seat` has been taken away."""
        for node in nodes:
            for other in self._seats.get((seat.column.group, node), [])[:ASKED_IN_NODE]:
                if other.gpu is not None:
                    continue
                self._places.put(other.load, node, -1)
                there = self._places.broken(other.load)
                after = float(there[seat.node]) + float(self._places.broken(seat.load)[node])
                self._places.put(other.load, node)
                if after < broken + float(there[node]) - BROKEN:
                    return other
        return None

    def _pairs(self) -> Iterator[Pair]:
        for (number, node), seats in self._seats.items():
            free = iter(self._gpus.get((number, node), ()))
            for seat in seats:
                gpu = next(free) if seat.gpu is None else seat.gpu
                kinds = self._instance.groups[number].kinds
                for device, kind, content in zip(gpu, kinds, seat.column.contents, strict=True):
                    for item in content:
                        yield self._instance.items[kind].choices[item].option, device


def _options(instance: Instance, column: Column) -> list[Option]:
    kinds = instance.groups[column.group].kinds
    contents = zip(kinds, column.contents, strict=True)
    return [instance.items[kind].choices[item].option for kind, content in contents for item in content]
