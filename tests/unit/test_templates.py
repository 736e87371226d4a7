"""What planner init writes is read back without an error, and fits the JSON Schemas."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from planner.domain.codec import to_json
from planner.domain.plan import Plan
from planner.domain.problem import Objective, Problem
from planner.errors import NotFoundError
from planner.inputs import templates
from planner.inputs.fleet import read_fleet
from planner.inputs.measure_config import read_measure_config
from planner.inputs.schemas import schema
from planner.inputs.workload import read_workload
from planner.inputs.yaml_file import read_yaml

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = [[], ["ranker"], ["a", "no", "12", "x: y", "- z", 'qu"ote', "ümlaut", "null", "#1"]]


def fits(path: Path, name: str) -> None:
    jsonschema.validate(read_yaml(path).value, schema(name))


@pytest.mark.parametrize("models", NAMES)
def test_workload(tmp_path: Path, models: list[str]) -> None:
    path = tmp_path / "workload.yaml"
    path.write_text(templates.workload(models))
    assert [m.name for m in read_workload(path).models] == (models or [templates.EXAMPLE_MODEL])
    fits(path, "workload")


@pytest.mark.parametrize("models", NAMES)
def test_measure(tmp_path: Path, models: list[str]) -> None:
    path = tmp_path / "measure.yaml"
    path.write_text(templates.measure(models))
    assert read_measure_config(path).models == (tuple(models) or None)
    fits(path, "measure")


@pytest.mark.parametrize("counts", [[], [("L4", 3)], [("A100-80", 2), ("cpu-1", 1)]])
def test_fleet(tmp_path: Path, counts: list[tuple[str, int]]) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(templates.fleet(counts))
    expected = [name for name, count in counts or [("A100-80", 8)] for _ in range(count)]
    assert [g.type for g in read_fleet(path).gpus] == expected
    fits(path, "fleet")


COMMENTED = re.compile(r"^( *)# ?((?:  )*(?:- )?[a-z0-9_A-Z-]+:( |$).*)", re.MULTILINE)


@pytest.mark.parametrize(
    ("text", "read", "shown"),
    [
        (templates.workload(["a"]), read_workload, "priority: 1"),
        (templates.workload(["a", "b"]), read_workload, "graph: [[a, b]]"),
        (templates.workload(["a", "b"]), read_workload, "survives: [{domain: gpu"),
        (templates.fleet([("L4", 1)]), read_fleet, "cpu-1: {kind: cpu"),
        (templates.measure(["a"]), read_measure_config, "shapes: {a: {INPUT"),
    ],
)
def test_commented_examples_are_right_too(tmp_path: Path, text: str, read: Any, shown: str) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(COMMENTED.sub(r"\1\2", text))
    assert shown in path.read_text()
    read(path)
    assert f"# {shown}" not in path.read_text()


@pytest.mark.parametrize("name", ["workload", "fleet", "measure"])
def test_golden_files_fit_the_schemas(name: str) -> None:
    fits(GOLDEN / f"{name}-v1.yaml", name)


@pytest.mark.parametrize("name", ["workload", "fleet", "measure", "problem", "plan"])
def test_schemas_are_schemas_and_refuse_unknown_keys(name: str) -> None:
    found = schema(name)
    json.dumps(found)
    jsonschema.Draft202012Validator.check_schema(found)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema_version": 1, "zzz": 1}, found)


def test_a_problem_fits_its_schema() -> None:
    problem = Problem(
        schema_version=1, periods=("all",), models=(), kinds=(), devices=(), options=(), objectives=(Objective.GPUS,)
    )
    jsonschema.validate(to_json(problem), schema("problem"))
    assert set(schema("plan")["properties"]) == set(Plan.__dataclass_fields__)


def test_an_unknown_schema() -> None:
    with pytest.raises(NotFoundError, match="there is no schema 'x'"):
        schema("x")
