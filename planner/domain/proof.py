"""The check of bounds: a certificate proved again in whole numbers, with no solver, and nothing believed but duals.

Each leaf is a case of the plans that are meant. Its duals bound the objective there if no GPU can carry content
worth more than its allowance, which a search of the checker decides. The cases must cover all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from planner.domain.certificate import Certificate, Proof
from planner.domain.layout import Layout
from planner.domain.leaves import priced, refuse_gaps, refuse_worth
from planner.domain.objectives import natural
from planner.domain.plan import ObjectiveValue, Plan
from planner.domain.problem import Objective, Problem
from planner.domain.relaxation import without_sites
from planner.domain.room import Room, room_of
from planner.domain.rows import CERTIFIED, Refused, Rows
from planner.domain.rules import Rule, Violation

MOST_NODES = 20_000_000  # of one search, whatever a certificate asks for: some minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenBound:
    """`bound` in the objective's natural unit; `nodes` of all searches, and `most_nodes` of the longest one."""

    objective: Objective
    bound: float
    leaves: int
    nodes: int
    most_nodes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    violations: tuple[Violation, ...]
    proven: tuple[ProvenBound, ...]


def verify(problem: Problem, plan: Plan, certificate: Certificate | None) -> list[Violation]:
    """Everything in the certified bounds of a plan that does not hold, or could not be settled."""
    return list(examine(problem, plan, certificate).violations)


def examine(problem: Problem, plan: Plan, certificate: Certificate | None) -> Examination:
    """The bounds that a certificate proves, and what is wrong with it. The plan must have passed `check`."""
    if certificate is not None and certificate.problem_digest != problem.digest:
        text = f"is of another problem: {certificate.problem_digest}, this one is {problem.digest}"
        return Examination(violations=(_violation("certificate.json", text),), proven=())
    proofs = certificate.proofs if certificate is not None else ()
    violations, proven = list(_claims(plan, proofs)), []
    prover = Prover(Layout(without_sites(problem), plan.placements()))
    for proof in proofs:
        try:
            proven.append(prover.prove(proof))
        except Refused as refused:
            violations.append(_violation(proof.objective, str(refused)))
    return Examination(violations=tuple(violations), proven=tuple(proven))


def _violation(subject: str, text: str) -> Violation:
    return Violation(Rule.CERTIFICATE, str(subject), text)


def _claims(plan: Plan, proofs: Sequence[Proof]) -> Iterator[Violation]:
    """Claims of plan.json against the bounds that certificate.json names, before any of them is proved."""
    names = [proof.objective for proof in proofs]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield _violation(name, f"has {names.count(name)} proofs")
    bounds = {proof.objective: natural(proof.objective, proof.bound) for proof in proofs}
    for objective in plan.objectives:
        claimed, proved = objective.certified_bound, bounds.pop(objective.name, None)
        if claimed != proved:
            yield _violation(objective.name, _mismatch(claimed, proved))
        elif claimed is not None:
            yield from _impossible(objective, claimed)
    for name in bounds:
        yield _violation(name, "has a proof, but is no objective of this plan")


def _mismatch(claimed: float | None, proved: float | None) -> str:
    if proved is None:
        return f"plan.json claims the certified bound {claimed}, but there is no proof of it"
    if claimed is None:
        return f"certificate.json has a proof of the bound {proved}, but plan.json claims none"
    return f"plan.json claims the certified bound {claimed}, certificate.json has {proved}"


def _impossible(objective: ObjectiveValue, claimed: float) -> Iterator[Violation]:
    if claimed > objective.value:
        text = f"the certified bound {claimed} is above the value {objective.value} that the plan reached"
        yield _violation(objective.name, text)
    elif objective.bound is None or claimed > objective.bound:
        yield _violation(objective.name, f"the certified bound {claimed} is better than the bound {objective.bound}")


class Prover:
    """Proves bounds on the plans of a problem that are no worse in earlier objectives than the one at hand."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._rooms: dict[str, Room] = {}

    def prove(self, proof: Proof) -> ProvenBound:
        """Raises `Refused` where the proof does not hold, or is not settled within its nodes."""
        if proof.objective not in CERTIFIED:
            raise Refused("this objective is never certified")
        if proof.objective not in self._layout.problem.objectives:
            raise Refused("is no objective of this problem")
        if self._layout.problem.pools or self._layout.problem.served_by_triton:
            raise Refused("bounds where rates are uncertain, or Triton serves an ensemble, are never certified")
        refuse_gaps(proof.leaves)
        rows = Rows(self._layout, proof.objective)
        bounds, nodes = [], [0]
        for number, leaf in enumerate(proof.leaves, 1):
            try:
                case = priced(rows, leaf)
                nodes += refuse_worth(case, self._room, min(proof.node_limit, MOST_NODES))
            except Refused as refused:
                raise Refused(f"leaf {number} of {len(proof.leaves)}: {refused}") from refused
            bounds.append(case.bound)
        if proof.bound != min(bounds):
            proved, claimed = (natural(proof.objective, bound) for bound in (min(bounds), proof.bound))
            raise Refused(f"its leaves prove {proved}, not {claimed}")
        return ProvenBound(
            objective=proof.objective,
            bound=natural(proof.objective, proof.bound),
            leaves=len(proof.leaves),
            nodes=sum(nodes),
            most_nodes=max(nodes),
        )

    def _room(self, kind: str) -> Room:
        if kind not in self._rooms:
            problem = self._layout.problem
            self._rooms[kind] = room_of(problem, problem.kind_by_name[kind])
        return self._rooms[kind]
