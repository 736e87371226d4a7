"""`planner check --bound`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.cli import run
from planner.domain.certificate import RowKind
from planner.domain.plan import Placement, Plan
from planner.domain.problem import Objective
from planner.plan_files import write_plan
from tests.certificates import certificate, dual, leaf, plan_of, proof, rows_for
from tests.problems import devices, model, option, problem

SUBJECT = problem(
    [model(name) for name in "abc"],
    [option(name, memory_bytes=5) for name in "abc"],
    fleet=devices(count=2),
    objectives=(Objective.GPUS, Objective.BALANCE),
)
PLACED = tuple(
    Placement(replica=name, option=f"{name}@big", device=device)
    for name, device in (("a", "big/0"), ("b", "big/0"), ("c", "big/1"))
)
ROWS = rows_for(SUBJECT, PLACED, Objective.GPUS)
PROOF = proof(ROWS, leaf(ROWS, 2000, [dual(RowKind.DEMAND, name, 1) for name in "abc"]))
PLAN = plan_of(SUBJECT, PLACED, PROOF)
CERTIFICATE = certificate(SUBJECT, PROOF)


def said(capsys: pytest.CaptureFixture[str], folder: Path, *options: str, code: int = 0) -> str:
    assert run(["check", str(folder), *options]) == code
    return capsys.readouterr().out


def of_bounds(text: str) -> list[str]:
    """What follows on the rules, which are wrapped for a terminal."""
    rules, bounds = text.split("every figure of plan.json follows from its placements.\n")
    assert all(len(line) <= 80 for line in rules.splitlines() if "/" not in line)
    return bounds.splitlines()


def test_proven_bounds_are_shown_with_their_effort(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, SUBJECT, PLAN, CERTIFICATE)
    lines = of_bounds(said(capsys, tmp_path, "--bound"))
    assert lines[0] == "Proved again, in whole numbers and without a solver:"
    assert lines[1].startswith("  gpus       no plan is below 2, and this one reaches it (1 leaf, ")
    assert lines[2] == "  balance    no certified bound: not tried"
    assert "Proved again" not in said(capsys, tmp_path)


def test_a_gap_is_shown_and_long_reasons_are_wrapped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loose = proof(ROWS, leaf(ROWS, 3001, [dual(RowKind.DEMAND, name, 1) for name in "abc"]))
    plan = plan_of(SUBJECT, PLACED, loose)
    reason = "the largest busy time over its limit is no sum over GPUs, and so has no duals to prove it by"
    long = replace(plan, objectives=(plan.objectives[0], replace(plan.objectives[1], uncertified=reason)))
    write_plan(tmp_path, SUBJECT, long, certificate(SUBJECT, loose))
    lines = of_bounds(said(capsys, tmp_path, "--bound"))
    assert "no plan is below 1; this one has 2 (1 leaf, " in lines[1]
    assert lines[2:] == [
        "  balance    no certified bound: the largest busy time over its limit is no sum",
        "             over GPUs, and so has no duals to prove it by",
    ]
    assert max(map(len, lines)) <= 80


def test_without_a_certificate_every_objective_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, SUBJECT, plan_of(SUBJECT, PLACED))
    assert of_bounds(said(capsys, tmp_path, "--bound")) == [
        "  gpus       no certified bound: not tried",
        "  balance    no certified bound: not tried",
    ]
    older = replace(PLAN, objectives=tuple(replace(o, certified_bound=None, uncertified=None) for o in PLAN.objectives))
    write_plan(tmp_path, SUBJECT, older)
    assert "no certified bound: the solver gave none" in said(capsys, tmp_path, "--bound")


def test_what_is_refused_or_not_verified_ends_with_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, SUBJECT, PLAN)
    assert "certificate: gpus: plan.json claims the certified bound 2.0" in said(capsys, tmp_path, "--bound", code=4)
    assert "certificate" not in said(capsys, tmp_path)
    few = replace(CERTIFICATE, proofs=(replace(PROOF, node_limit=1),))
    write_plan(tmp_path, SUBJECT, PLAN, few)
    text = said(capsys, tmp_path, "--bound", code=4)
    assert (
        text
        == "certificate: gpus: leaf 1 of 1: not verified: a search of 1 node did not settle what one big can carry\n"
    )


def test_a_plan_that_breaks_rules_is_not_asked_for_its_bounds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken: Plan = replace(PLAN, replicas=PLAN.replicas[:2])
    write_plan(tmp_path, SUBJECT, broken, replace(CERTIFICATE, problem_digest="sha256:0"))
    text = said(capsys, tmp_path, "--bound", code=4)
    assert "demand: c" in text
    assert "certificate" not in text


def test_all_of_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, SUBJECT, PLAN, CERTIFICATE)
    assert json.loads(said(capsys, tmp_path, "--json")) == {"violations": []}
    gpus, balance = json.loads(said(capsys, tmp_path, "--bound", "--json"))["bounds"]
    assert gpus.pop("nodes") > 0
    assert gpus == {
        "objective": "gpus", "value": 2, "certified_bound": 2, "proven_bound": 2, "leaves": 1, "uncertified": None,
    }  # fmt: skip
    assert (balance["proven_bound"], balance["uncertified"]) == (None, "not tried")
    write_plan(tmp_path, SUBJECT, PLAN)
    (violation,) = json.loads(said(capsys, tmp_path, "--bound", "--json", code=4))["violations"]
    assert (violation["rule"], violation["subject"]) == ("certificate", "gpus")


def test_a_certificate_that_is_no_json_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path, SUBJECT, PLAN)
    for text in ("{", '{"schema_version": 2}', '{"schema_version": ' + "1" * 5000 + "}"):
        (tmp_path / "certificate.json").write_text(text)
        assert run(["check", str(tmp_path), "--bound"]) == 2
        assert "certificate.json" in capsys.readouterr().err
