"""plan.json and problem.json: written together, read back, and errors that say where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from planner.domain.certificate import Certificate
from planner.errors import InputError, NotFoundError, SetupError
from planner.plan_files import plan_digest, plan_folder, read_certificate, read_json, read_plan, write_plan
from tests.plans import placed, replica_option

OPTION = replica_option("ranker", "cpu-1")
PLANNED = placed([OPTION], {"n1/0": [OPTION.id]})


def test_what_is_written_reads_back_by_folder_and_by_file(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan", *PLANNED)
    assert sorted(path.name for path in (tmp_path / "plan").iterdir()) == ["plan.json", "problem.json"]
    assert read_plan(tmp_path / "plan") == PLANNED
    assert read_plan(tmp_path / "plan" / "plan.json") == PLANNED
    assert plan_folder(tmp_path / "plan") == plan_folder(tmp_path / "plan" / "plan.json") == tmp_path / "plan"


def test_a_plan_under_another_name_is_read_with_the_problem_beside_it(tmp_path: Path) -> None:
    write_plan(tmp_path, *PLANNED)
    (tmp_path / "plan.json").rename(tmp_path / "older.json")
    assert read_plan(tmp_path / "older.json") == PLANNED


def test_the_version_comes_first(tmp_path: Path) -> None:
    write_plan(tmp_path, *PLANNED)
    for name in ("plan.json", "problem.json"):
        assert next(iter(json.loads((tmp_path / name).read_text()))) == "schema_version"


def test_an_error_leaves_the_older_plan(tmp_path: Path) -> None:
    write_plan(tmp_path, *PLANNED)
    (tmp_path / "problem.json").unlink()
    (tmp_path / "problem.json").mkdir()
    before = (tmp_path / "plan.json").read_text()
    problem, plan = PLANNED
    with pytest.raises(InputError, match=r"problem\.json is a folder"):
        write_plan(tmp_path, problem, replace(plan, seed=7))
    assert (tmp_path / "plan.json").read_text() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="cannot write"):
        write_plan(tmp_path / "file", problem, plan)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere does not exist") as caught:
        read_plan(tmp_path / "nowhere")
    assert caught.value.hint == "`planner solve` writes a plan"
    write_plan(tmp_path, *PLANNED)
    (tmp_path / "problem.json").unlink()
    with pytest.raises(NotFoundError, match=r"problem\.json does not exist"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n "schema_version": 1,\n}', r"plan\.json: line 3, column 1: "),
        ("[]", r"plan\.json: plan: field 'schema_version' is missing"),
        ('{"schema_version": 99}', r"plan\.json: plan: schema_version 99 is unknown"),
        ('{"schema_version": 1, "colour": 1}', r"plan\.json: plan: unknown field 'colour'"),
        ('{"schema_version": 1, "status": "good"}', r"plan\.json: plan: field 'solver' is missing"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    write_plan(tmp_path, *PLANNED)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_plan(tmp_path)


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is not a text file"):
        read_json(tmp_path / "plan.json")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_json(tmp_path)


def test_a_digest_tells_plans_apart() -> None:
    _, plan = PLANNED
    assert plan_digest(plan) == plan_digest(replace(plan))
    assert plan_digest(plan) != plan_digest(replace(plan, seed=1))
    assert plan_digest(plan).startswith("sha256:")


CERTIFICATE = Certificate(schema_version=1, problem_digest=PLANNED[0].digest, proofs=())


def test_a_certificate_is_written_beside_the_plan_and_goes_with_it(tmp_path: Path) -> None:
    write_plan(tmp_path, *PLANNED, CERTIFICATE)
    assert read_certificate(tmp_path) == read_certificate(tmp_path / "plan.json") == CERTIFICATE
    write_plan(tmp_path, *PLANNED)
    assert read_certificate(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "problem.json"]


def test_an_error_leaves_the_older_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, plan = PLANNED
    write_plan(tmp_path, problem, plan, CERTIFICATE)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "certificate.json":
            raise PermissionError(1, "Operation not permitted")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(SetupError, match=r"cannot write .*certificate\.json"):
        write_plan(tmp_path, problem, replace(plan, seed=7))
    assert read_plan(tmp_path) == PLANNED
    assert read_certificate(tmp_path) == CERTIFICATE
    (tmp_path / "certificate.json").unlink()
    (tmp_path / "certificate.json").mkdir()
    with pytest.raises(InputError, match=r"certificate\.json is a folder"):
        write_plan(tmp_path, problem, replace(plan, seed=7))
    assert read_plan(tmp_path) == PLANNED
