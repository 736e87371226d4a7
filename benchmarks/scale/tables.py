"""The tables: one row per class and size, each number the median over its seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from cases import Case

PLANNER = "planner"
ABSENT = "-"


@dataclass(frozen=True)
class Run:
    """`outcome` has the fields of `solve_one.Outcome`; those that are not there count as absent."""

    case: Case
    method: str
    outcome: dict[str, Any]

    @property
    def line(self) -> str:
        shown = ("value", "bound", "certified_bound", "seconds", "peak_mb", "note")
        found = [f"{name} {_plain(self.outcome[name])}" for name in shown if self.outcome.get(name) is not None]
        return f"{self.case.path.name} {self.method}: {', '.join([self.outcome['status'], *found])}"


@dataclass(frozen=True)
class Group:
    """All runs of one class and size."""

    label: str
    size: int
    runs: Sequence[Run]

    def values(self, method: str, field: str) -> list[Any]:
        found = [run.outcome.get(field) for run in self.runs if run.method == method]
        return [value for value in found if value is not None]

    def ratios(self, peer: str | None) -> list[float]:
        """What the peer needs over what Planner needs, seed by seed; None: the best heuristic of the paper."""
        own = {r.case.seed: r.outcome for r in self.runs if r.method == PLANNER}
        if peer is None:
            pairs = [(outcome.get("paper"), outcome.get("value")) for outcome in own.values()]
        else:
            pairs = [(r.outcome.get("value"), own[r.case.seed].get("value")) for r in self.runs if r.method == peer]
        return [theirs / ours for theirs, ours in pairs if theirs and ours]


def print_tables(runs: Sequence[Run], peers: Sequence[str]) -> None:
    groups = _groups(runs)
    print_table(["class", "n", *(name for name, _ in PLANNER_COLUMNS)], map(_planner_row, groups))
    beside = [group for group in groups if group.runs[0].case.one_gpu_type]
    if beside and peers:
        columns = [f"{peer} {what}" for peer in peers for what in ("bins", "bound", "ratio", "s", "MB")]
        print_table(
            ["class", "n", "planner", "optimum", *columns, "paper's best ratio"],
            [_peer_row(group, peers) for group in beside],
        )


def _groups(runs: Sequence[Run]) -> list[Group]:
    found: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        if run.outcome["status"] != "left out":
            found.setdefault((run.case.label, run.case.size), []).append(run)
    return [Group(label, size, rows) for (label, size), rows in found.items()]


def _planner_row(group: Group) -> list[str]:
    return [group.label, f"{group.size:,}", *(show(group) for _, show in PLANNER_COLUMNS)]


def _peer_row(group: Group, peers: Sequence[str]) -> list[str]:
    row = [group.label, f"{group.size:,}", _middle("value")(group), _middle("optimum")(group)]
    for peer in peers:
        row += [_middle("value", peer=peer)(group) + _of_all(group, peer), _middle("bound", peer=peer)(group)]
        row += [_median(group.ratios(peer), "{:.3f}")]
        row += [_middle("seconds", "{:,.2f}", peer)(group), _middle("peak_mb", "{:,.0f}", peer)(group)]
    return [*row, _median(group.ratios(None), "{:.3f}")]


def _middle(field: str, shown: str = "", peer: str = PLANNER) -> Callable[[Group], str]:
    return lambda group: _median(group.values(peer, field), shown)


def _median(values: Sequence[float], shown: str = "") -> str:
    if not values:
        return ABSENT
    return shown.format(median(values)) if shown else _plain(median(values))


def _plain(value: object) -> str:
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def _plans(group: Group) -> str:
    """Seeds with a plan, of all."""
    return f"{len(group.values(PLANNER, 'value'))} of {len(group.values(PLANNER, 'status'))}"


def _of_all(group: Group, peer: str) -> str:
    """How many seeds a median is of, where it is not all: the others may be the harder ones."""
    found, tried = len(group.values(peer, "value")), len(group.values(peer, "status"))
    return f" ({found} of {tried})" if 0 < found < tried else ""


def _optimal(group: Group) -> str:
    return str(group.values(PLANNER, "status").count("optimal"))


def _verified(group: Group) -> str:
    """yes and no by the checker; "not verified" where there is a certificate and no checker."""
    certified = len(group.values(PLANNER, "certified_bound"))
    answers = group.values(PLANNER, "verified")
    if not certified and not answers:
        return ABSENT
    if not answers:
        return "not verified"
    return "yes" if all(answers) and len(answers) == certified else f"{sum(answers)} of {max(certified, len(answers))}"


PLANNER_COLUMNS: tuple[tuple[str, Callable[[Group], str]], ...] = (
    ("plans", _plans),
    ("GPUs or USD/h", _middle("value")),
    ("bound", _middle("bound")),
    ("certified", _middle("certified_bound")),
    ("gap", _middle("gap", "{:.2%}")),
    ("optimal", _optimal),
    ("s", _middle("seconds", "{:,.2f}")),
    ("first plan s", _middle("first_plan_s", "{:,.2f}")),
    ("compile s", _middle("compile_s", "{:,.2f}")),
    ("verified", _verified),
    ("verify s", _middle("verify_s", "{:,.2f}")),
    ("MB", _middle("peak_mb", "{:,.0f}")),
    ("read s", _middle("parse_s", "{:,.2f}")),
)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    print(f"| {' | '.join(columns)} |")
    print(f"|---|{'---:|' * (len(columns) - 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    print()
