"""Every solver against brute force on random small problems with random subsets of all rules.

    python benchmarks/rules/run.py [--problems 1000] [--seed 0] [--keep FOLDER]

Ends with 1 where a plan breaks a rule, beats brute force, or a claim about it does not hold; `--keep` writes those
problems as problem.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from hypothesis import HealthCheck, Phase, given, seed, settings

from planner.domain.codec import to_json
from planner.domain.plan import Status
from planner.domain.problem import Objective, Problem
from planner.domain.rules import Rule
from solvers.base import SolveResult
from tests.any_problem import SOLVERS, any_problem, solve_as
from tests.brute_force import judged_contents, judged_plans, objective_key
from tests.results import assert_best, assert_no_better

# Hypothesis makes problems out of earlier ones: beginning anew keeps them different.
BATCH = 100


class Study:
    """What was found so far, by solver, rule and objective."""

    def __init__(self, keep: Path | None) -> None:
        self.problems: list[str] = []
        self.infeasible = 0
        self.refused = Counter[Rule]()
        self.objectives = Counter[Objective]()
        self.statuses = {name: Counter[str]() for name in SOLVERS}
        self.faults: list[str] = []
        self._keep = keep

    def add(self, subject: Problem) -> None:
        plans = list(judged_plans(subject))
        best = min((objective_key(subject, placements) for placements, broken in plans if not broken), default=None)
        self.problems.append(subject.digest)
        self.infeasible += best is None
        self.refused.update(_refused_alone(subject, [broken for _, broken in plans]))
        self.objectives.update(subject.objectives)
        for name in SOLVERS:
            result = solve_as(name, subject)
            try:
                (assert_best if name == "cpsat" else assert_no_better)(subject, result, best)
            except AssertionError as error:
                self._fault(subject, name, str(error))
            self.statuses[name][_outcome(subject, result, best)] += 1

    def _fault(self, subject: Problem, name: str, text: str) -> None:
        number = len(self.faults) + 1
        self.faults.append(f"{number}: {name}: {text}")
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"{number}-{name}.json").write_text(json.dumps(to_json(subject)), encoding="utf-8")


def _refused_alone(subject: Problem, broken: list[set[Rule]]) -> set[Rule]:
    """The rules that are the only reason against some plan, or against some content of a device."""
    contents = [rules for device in subject.devices for _, rules in judged_contents(subject, device)]
    found = {next(iter(rules)) for rules in [*broken, *contents] if len(rules) == 1}
    return found | ({Rule.MIG_LAYOUT} if any(kind.mig for kind in subject.kinds) else set())


def _outcome(subject: Problem, result: SolveResult, best: tuple[int, ...] | None) -> str:
    if result.placements is None:
        return "proven infeasible" if result.status is Status.INFEASIBLE else "no plan found"
    if objective_key(subject, result.placements) != best:
        return "worse"
    return "proven best" if result.status is Status.OPTIMAL else "best"


def draw(study: Study, count: int, random_seed: int) -> None:
    @seed(random_seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(any_problem())
    def add(subject: Problem) -> None:
        study.add(subject)

    add()


COLUMNS = ("proven best", "best", "worse", "proven infeasible", "no plan found")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given_arguments = parser.parse_args(arguments)
    study = Study(given_arguments.keep)

    for start in range(0, given_arguments.problems, BATCH):
        draw(study, min(BATCH, given_arguments.problems - start), given_arguments.seed + start)
    _print(study)
    if study.faults:
        raise SystemExit(1)


def _print(study: Study) -> None:
    total = len(study.problems)
    different = len(set(study.problems))
    print(f"{total} problems, {different} of them different; {study.infeasible} without any plan\n")
    print(f"| solver | {' | '.join(COLUMNS)} |")
    print(f"| --- |{' ---: |' * len(COLUMNS)}")
    for name, counts in study.statuses.items():
        print(f"| {name} | {' | '.join(str(counts[column]) for column in COLUMNS)} |")
    print("\n| rule | problems |\n| --- | ---: |")
    for rule in (rule for rule in Rule if rule not in (Rule.PLAN_FILE, Rule.CERTIFICATE)):
        print(f"| `{rule}` | {study.refused[rule]} |")
    print("\n| objective | problems |\n| --- | ---: |")
    for objective in Objective:
        print(f"| `{objective}` | {study.objectives[objective]} |")
    print(f"\nfaults: {len(study.faults)}")
    for fault in study.faults:
        print(f"  {fault}")


if __name__ == "__main__":
    main()
