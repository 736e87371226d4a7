"""A proof of a bound that needs no solver to be believed: leaves of integer duals. Written as certificate.json.

Linear duality in integers. Let n_i be the replicas of option i and x_g the GPUs of group g in use. Each row
below is an inequality `sum of coefficients >= rhs` that every plan keeps. With duals >= 0 such that no feasible
content of a GPU has more value (sum over its replicas of dual x coefficient) than `scale` x its cost in the
objective, less what the rows on GPUs give it, the sum of dual x rhs, over `scale`, bounds the objective from
below (Farley, Operations Research 38, 1990). Leaves bear decisions that together cover every case.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.codec import from_json
from planner.domain.problem import Objective, require_version


class RowKind(StrEnum):
    """The inequalities, each brought to the form `... >= rhs`. D: a model's largest demand in mrps.

    demand: subject a model; `divisor` d: sum over its options of ceil(min(capacity, D) / d) n_i >= ceil(D / d)
        (d = 1: the demand itself; d > 1: its Chvatal-Gomory rounding, valid where all demand is served)
    replicas-min, replicas-max: subject a model; sum n_i >= minimum, -sum n_i >= -maximum
    stock: subject a group; -x_g >= -(GPUs of the group that are not cordoned)
    fixed: subject an earlier objective; -(its value) >= -(the value that the plan reached)
    """

    DEMAND = "demand"
    REPLICAS_MIN = "replicas-min"
    REPLICAS_MAX = "replicas-max"
    STOCK = "stock"
    FIXED = "fixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowDual:
    """`dual` in units of 1 / scale of the objective's integer unit, per unit of the row's right side."""

    row: RowKind
    subject: str
    divisor: int = 1
    dual: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaDual:
    """What a replica of this capacity counts, cut at the model's largest demand D."""

    capacity_mrps: int
    dual: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cover:
    """A model's demand as an integer program of its own, in the place of its demand row.

    Whole replicas n_c >= 0, their capacities adding up to D or more, their number within the model's minimum and
    maximum, count at least `value` = the least sum of dual x n_c. Valid where all demand is served.
    """

    subject: str
    duals: tuple[ReplicaDual, ...]
    value: int


class Side(StrEnum):
    AT_MOST = "at-most"
    AT_LEAST = "at-least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """One side of a branching on a sum of whole numbers: GPUs in use of `groups`, or replicas of `options`.

    Just one of both is named. The other side of `at-most` v is `at-least` v + 1 on the same sum. It is a row
    of its leaf too, with this dual.
    """

    groups: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    side: Side
    value: int
    dual: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One case, and its bound: `numerator` = sum of dual x rhs over all rows, decisions included, and of covers."""

    decisions: tuple[Decision, ...] = ()
    duals: tuple[RowDual, ...]
    covers: tuple[Cover, ...] = ()
    scale: int
    numerator: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """`bound` in the objective's integer unit: the least over the leaves, each rounded up to what can be reached.

    `node_limit`: so many nodes of the checker's own search are enough for each leaf and device kind.
    """

    objective: Objective
    bound: int
    leaves: tuple[Leaf, ...]
    node_limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    schema_version: int
    problem_digest: str
    proofs: tuple[Proof, ...]


def certificate_from_json(value: object, where: str) -> Certificate:
    require_version(value, where)
    return from_json(Certificate, value, where)
