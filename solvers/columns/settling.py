"""Plans of a problem with rules between devices, from columns that know nothing of these."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from planner.domain.plan import Placement
from solvers.base import SolveOptions
from solvers.columns.column import Column
from solvers.columns.instance import Instance
from solvers.columns.seating import seated
from solvers.mending import Mender
from solvers.packing import Price
from solvers.reduction import Reduction, name_placements

# Finding GPUs for columns may take this part of the time on the way to better columns.
SHARE_OF_SETTLING = 0.25
FRUITLESS = 60
TELL_EVERY_S = 2.0


class Settling:
    """`reduction` is of the problem itself; `instance` of its relaxation. `keep` is given every plan."""

    def __init__(
        self,
        reduction: Reduction,
        instance: Instance,
        price: Price,
        options: SolveOptions,
        keep: Callable[[tuple[Placement, ...]], None],
    ) -> None:
        self._reduction, self._instance, self._keep = reduction, instance, keep
        self._options = options
        self._mender = Mender(reduction, price, options.seed)
        self._columns: list[Column] = []
        self._plan: tuple[Placement, ...] | None = None
        self._due = 0.0

    def settle(self, columns: Sequence[Column], deadline: float, *, last: bool = False) -> None:
        """Find GPUs for columns; not each time, unless these are the `last` ones or nothing is known yet."""
        started = time.monotonic()
        waits = self._plan is not None and (started < self._due or self._options.iterations is not None)
        if columns == self._columns or (waits and not last):
            return
        self._columns = list(columns)
        self._plan = None
        if self._mender.mend(seated(self._instance, self._reduction.problem, columns, deadline)):
            self._offer()
        took = time.monotonic() - started
        self._due = started + took / SHARE_OF_SETTLING

    def improve(self, plan: Sequence[Placement], bound: int, deadline: float, *, brief: bool) -> None:
        """Empty GPUs of a plan and fill others until the deadline, or until it is as near its bound as was asked for.

        `brief`: until that brings nothing for a while.
        """
        problem = self._reduction.problem
        if problem.spans_gpus:  # replicas over several GPUs stay where they are, and models may have both kinds
            return
        pairs = ((problem.option_by_id[p.option], problem.device_by_id[p.device]) for p in plan)
        if plan != self._plan and not self._mender.mend(pairs):
            return
        turn, last, told = 0, 0, time.monotonic()
        most = self._options.iterations
        try:
            while turn < most if most is not None else time.monotonic() < deadline:
                cost = self._mender.cost()[0]
                if cost - bound <= self._options.gap * cost or (brief and turn - last > FRUITLESS):
                    break
                turn += 1
                last = turn if self._mender.step() else last
                if last == turn and time.monotonic() > told + TELL_EVERY_S:
                    told = time.monotonic()
                    self._offer()
        finally:
            self._offer()

    def _offer(self) -> None:
        self._plan = name_placements(self._reduction.problem, self._mender.pairs())
        self._keep(self._plan)
