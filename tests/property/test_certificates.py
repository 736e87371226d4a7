"""The checker of bounds against brute force: its search, and whatever certificate it accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from planner.domain.certificate import Decision, Leaf, Proof, RowDual, RowKind
from planner.domain.device_value import most_valuable
from planner.domain.layout import Layout
from planner.domain.limits import limits_of
from planner.domain.objectives import integer_value
from planner.domain.plan import Placement
from planner.domain.problem import Objective, Option, Problem
from planner.domain.proof import Prover, verify
from planner.domain.room import room_of
from planner.domain.rows import CERTIFIED, Refused, Rows
from tests.brute_force import all_plans, device_contents
from tests.certificates import at_least, at_most, certificate, dual, leaf, plan_of, proof
from tests.problems import kind, model, option, problem
from tests.tiny_problems import tiny_problems

NODES = 100_000
SLOW = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


@SLOW
@given(tiny_problems(), st.data())
def test_the_best_value_of_a_device_is_that_of_brute_force(subject: Problem, data: st.DataObject) -> None:
    values = {o.id: data.draw(st.integers(-3, 20), o.id) for o in subject.options}
    for each in subject.kinds:
        device = next((d for d in subject.devices if d.kind == each.name and not d.cordoned), None)
        if device is None:
            continue
        contents = device_contents(subject, device)
        best = max(sum(values[o.id] for o in row) for row in contents if _of_use(subject, each.name, row))
        room = room_of(subject, each)
        found = most_valuable(room, values, above=0, node_limit=NODES)
        assert found.value == best == sum(values[name] for name in found.content)
        assert not most_valuable(room, values, above=best, node_limit=NODES, first=True).content
        if best:
            above = data.draw(st.integers(0, best - 1))
            some = most_valuable(room, values, above=above, node_limit=NODES, first=True)
            assert above < some.value == sum(values[name] for name in some.content)
            assert Counter(some.content) in [Counter(o.id for o in row) for row in contents]


def _of_use(subject: Problem, kind_name: str, row: Sequence[Option]) -> bool:
    """No model has more replicas than it may have, or than could be of use."""
    usable = [o for o in subject.options if o.kind == kind_name and limits_of(subject, o) is not None]
    useful = {o.id: _most_useful(subject, o) for o in usable}
    models, options = Counter(o.model for o in row), Counter(o.id for o in row)
    return all(count <= useful[name] for name, count in options.items()) and all(
        count <= max(useful[o.id] for o in usable if o.model == name)
        and ((most := subject.model_by_name[name].replicas_max) is None or count <= most)
        for name, count in models.items()
    )


def _most_useful(subject: Problem, o: Option) -> int:
    demanded = subject.model_by_name[o.model]
    number = demanded.replicas_min
    while number * o.capacity_mrps < demanded.peak_mrps:
        number += 1
    return number


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_many_models_in_many_replicas_are_packed_as_by_dynamic_programming(data: st.DataObject) -> None:
    most = data.draw(st.sampled_from([1, 2, 3, None]))
    sizes = {f"m{i}": data.draw(st.lists(st.integers(5, 40), min_size=1, max_size=3)) for i in range(8)}
    options = [
        option(name, id=f"{name}:{i}", memory_bytes=size, busy_ppm=(0,))
        for name, row in sizes.items()
        for i, size in enumerate(row)
    ]
    # Values near the sizes, as duals are: then bounds do not decide at once.
    values = {o.id: o.memory_bytes * 10 + data.draw(st.integers(0, 12)) for o in options}
    models = [model(name, demand_mrps=100_000) for name in sizes]
    subject = problem(models, options, kinds=[kind(memory_bytes=100)], max_per_device=most)
    best = [0] * 101
    for name in sizes:
        own = [o for o in options if o.model == name]
        for _ in range(20 if most is None else most):
            best = [
                max([best[room], *(best[room - o.memory_bytes] + values[o.id] for o in own if o.memory_bytes <= room)])
                for room in range(101)
            ]
    found = most_valuable(room_of(subject, subject.kinds[0]), values, above=0, node_limit=NODES)
    assert found.value == best[100] == sum(values[name] for name in found.content)


@SLOW
@given(tiny_problems(), st.data())
def test_no_certificate_that_is_accepted_exceeds_the_optimum(subject: Problem, data: st.DataObject) -> None:
    objectives = [o for o in subject.objectives if o in CERTIFIED]
    assume(objectives)
    layouts = list(all_plans(subject))
    assume(layouts)
    placed = data.draw(st.sampled_from(layouts))
    objective = data.draw(st.sampled_from(objectives))
    rows = Rows(Layout(subject, placed), objective)
    drawn = [(data.draw(duals(subject, objective)), case) for case in _cases(subject, data)]
    best = min(integer_value(layout, objective) for layout in _no_worse(subject, placed, objective, layouts))
    for scale in (2**power for power in range(0, 24, 2)):
        leaves = [_scaled(rows, scale, given_duals, case) for given_duals, case in drawn]
        made = None if None in leaves else _accepted(subject, placed, rows, [x for x in leaves if x is not None])
        if made is not None:
            assert made.bound <= best
            event(f"accepted with {len(made.leaves)} leaves: " + ("tight" if made.bound == best else "loose"))


@st.composite
def duals(draw: st.DrawFn, subject: Problem, objective: Objective) -> tuple[RowDual, ...]:
    """Any rows, also such as do not hold."""
    models = [m.name for m in subject.models]
    amount = st.integers(0, 40)
    found = [dual(RowKind.DEMAND, name, draw(amount), draw(st.sampled_from([1, 1, 1, 500, 1000]))) for name in models]
    found += [dual(RowKind.REPLICAS_MIN, name, draw(amount)) for name in models if draw(st.booleans())]
    found += [dual(RowKind.REPLICAS_MAX, name, draw(amount)) for name in models if draw(st.booleans())]
    kinds = sorted({"+".join(sorted(d.kind for d in subject.devices if d.gpu == gpu)) for gpu in _gpus(subject)})
    found += [dual(RowKind.STOCK, name, draw(amount) * 1000) for name in kinds if draw(st.booleans())]
    earlier = subject.objectives[: subject.objectives.index(objective)]
    found += [dual(RowKind.FIXED, name, draw(amount)) for name in earlier if draw(st.booleans())]
    return tuple(found)


def _gpus(subject: Problem) -> Iterator[str]:
    return (d.gpu for d in subject.devices)


def _cases(subject: Problem, data: st.DataObject) -> list[list[Decision]]:
    """One leaf, or the two sides of a branching."""
    if not data.draw(st.booleans(), "branch"):
        return [[]]
    value, amount = data.draw(st.integers(0, 2)), st.integers(0, 40_000)
    names = [o.id for o in subject.options]
    if names and data.draw(st.booleans(), "on options"):
        options = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        few = at_most(value, options=options, amount=data.draw(amount))
        return [[few], [at_least(value + 1, options=options, amount=data.draw(amount))]]
    groups = [subject.devices[0].kind]
    few = at_most(value, groups=groups, amount=data.draw(amount))
    return [[few], [at_least(value + 1, groups=groups, amount=data.draw(amount))]]


def _scaled(rows: Rows, scale: int, given_duals: Sequence[RowDual], case: Sequence[Decision]) -> Leaf | None:
    """The leaf with those of its rows that hold."""
    kept = [d for d in given_duals if _holds(rows, d)]
    try:
        return leaf(rows, scale, kept, case)
    except Refused:
        return None


def _holds(rows: Rows, given_dual: RowDual) -> bool:
    try:
        rows.row(given_dual)
    except Refused:
        return False
    return True


def _accepted(subject: Problem, placed: Sequence[Placement], rows: Rows, leaves: Sequence[Leaf]) -> Proof | None:
    try:
        made = proof(rows, *leaves, node_limit=NODES)
        Prover(rows.layout).prove(made)
    except Refused:
        return None
    assert verify(subject, plan_of(subject, placed, made), certificate(subject, made)) == []
    return made


def _no_worse(
    subject: Problem, placed: Sequence[Placement], objective: Objective, layouts: Sequence[tuple[Placement, ...]]
) -> Iterator[Layout]:
    """Layouts that are no worse than the one placed in the earlier objectives that a row may fix."""
    earlier = [o for o in subject.objectives[: subject.objectives.index(objective)] if o in CERTIFIED]
    reached = {o: integer_value(Layout(subject, placed), o) for o in earlier}
    for candidate in layouts:
        layout = Layout(subject, candidate)
        if all(integer_value(layout, o) <= reached[o] for o in earlier):
            yield layout
