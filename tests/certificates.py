"""Certificates for tests: the duals are given, numerators and bounds follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from planner.domain.certificate import Certificate, Decision, Leaf, Proof, RowDual, RowKind, Side
from planner.domain.derive import Origin, derive_plan
from planner.domain.layout import Layout
from planner.domain.leaves import priced
from planner.domain.objectives import natural
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Objective, Problem
from planner.domain.rows import Rows

NODE_LIMIT = 10_000


def dual(row: RowKind, subject: str, amount: int, divisor: int = 1) -> RowDual:
    return RowDual(row=row, subject=subject, dual=amount, divisor=divisor)


def at_most(value: int, *, groups: Sequence[str] = (), options: Sequence[str] = (), amount: int = 0) -> Decision:
    return Decision(groups=tuple(groups), options=tuple(options), side=Side.AT_MOST, value=value, dual=amount)


def at_least(value: int, *, groups: Sequence[str] = (), options: Sequence[str] = (), amount: int = 0) -> Decision:
    return Decision(groups=tuple(groups), options=tuple(options), side=Side.AT_LEAST, value=value, dual=amount)


def leaf(rows: Rows, scale: int, duals: Sequence[RowDual], decisions: Sequence[Decision] = ()) -> Leaf:
    terms = [(d.dual, rows.row(d)) for d in duals] + [(d.dual, rows.decision(d)) for d in decisions]
    numerator = sum(amount * row.rhs for amount, row in terms)
    return Leaf(decisions=tuple(decisions), duals=tuple(duals), scale=scale, numerator=numerator)


def proof(rows: Rows, *leaves: Leaf, node_limit: int = NODE_LIMIT) -> Proof:
    bound = min(priced(rows, leaf).bound for leaf in leaves)
    return Proof(objective=rows.objective, bound=bound, leaves=leaves, node_limit=node_limit)


def certificate(problem: Problem, *proofs: Proof) -> Certificate:
    return Certificate(schema_version=1, problem_digest=problem.digest, proofs=proofs)


def plan_of(problem: Problem, placements: Sequence[Placement], *proofs: Proof) -> Plan:
    """A plan that claims these bounds, and no others."""
    bounds = {p.objective: natural(p.objective, p.bound) for p in proofs}
    origin = Origin(
        status=Status.FEASIBLE,
        solver="by hand",
        seed=0,
        runtime_s=0.0,
        bounds=[(bounds.get(o), "by hand") for o in problem.objectives],
        certified=[(bounds[o], None) if o in bounds else (None, "not tried") for o in problem.objectives],
    )
    return derive_plan(problem, tuple(placements), origin)


def rows_for(problem: Problem, placements: Sequence[Placement], objective: Objective) -> Rows:
    return Rows(Layout(problem, placements), objective)


def edited(given: Certificate, place: int = 0, **changes: object) -> Certificate:
    """The certificate with changes in its first proof, or in the leaf at `place` of that proof."""
    first = given.proofs[0]
    if set(changes) <= {"decisions", "duals", "scale", "numerator"}:
        leaves = list(first.leaves)
        leaves[place] = replace(leaves[place], **changes)  # type: ignore[arg-type]
        changes = {"leaves": tuple(leaves)}
    return replace(given, proofs=(replace(first, **changes), *given.proofs[1:]))  # type: ignore[arg-type]
