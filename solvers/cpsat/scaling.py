"""Smaller coefficients without changing what they allow: divided by their greatest common divisor, never rounded."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from ortools.sat.python import cp_model

Term = tuple[int, cp_model.IntVar]


def at_most(model: cp_model.CpModel, terms: Sequence[Term], limit: int) -> None:
    """sum of coefficient x variable <= limit. The variables are whole numbers, so the limit may be rounded down."""
    used = [(coefficient, variable) for coefficient, variable in terms if coefficient]
    common = gcd(*(coefficient for coefficient, _ in used)) or 1
    total = weighted_sum([(coefficient // common, variable) for coefficient, variable in used])
    model.add(total <= limit // common)


def at_least(model: cp_model.CpModel, terms: Sequence[Term], limit: int) -> None:
    at_most(model, [(-coefficient, variable) for coefficient, variable in terms], -limit)


def weighted_sum(terms: Sequence[Term]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.weighted_sum([v for _, v in terms], [c for c, _ in terms])
