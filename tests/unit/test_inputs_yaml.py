"""YAML files: what is read, and how each way to get it wrong is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import InputError, NotFoundError, PlannerError
from planner.inputs.workload import read_workload
from planner.inputs.yaml_file import MOST_ERRORS, read_yaml

HEAD = "schema_version: 1\nmodels:\n"


def error_of(tmp_path: Path, content: str | bytes) -> PlannerError:
    path = tmp_path / "workload.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PlannerError) as caught:
        read_workload(path)
    caught.value.message = caught.value.message.replace(f"{tmp_path}/", "")
    return caught.value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "  - name: a\n    latency_p99: 25\n",
         "workload.yaml:4: models[0].latency_p99: unknown key; did you mean latency_p99_ms? allowed: name, "),
        (HEAD + "  - nmae: a\n", "workload.yaml:3: models[0].nmae: unknown key; did you mean name?"),
        (HEAD + "  - name: a\n    zzz: 1\n", "workload.yaml:4: models[0].zzz: unknown key; allowed: name, rate_rps"),
        (HEAD + "  - rate_rps: 1\n", "workload.yaml:3: models[0].name: is missing"),
        (HEAD + "  - name: a\n  - name: b\n    rate_rps: '12'\n",
         "workload.yaml:5: models[1].rate_rps: must be a number, got '12'"),
        (HEAD + "  - name: a\n    rate_rps: true\n", "workload.yaml:4: models[0].rate_rps: must be a number, got True"),
        (HEAD + "  - name: a\n    rate_rps: .nan\n",
         "workload.yaml:4: models[0].rate_rps: must be a finite number, got nan"),
        (HEAD + "  - name: a\n    rate_rps: -1\n", "workload.yaml:4: models[0].rate_rps: must be at least 0"),
        (HEAD + "  - name: a\n    priority: 1.5\n",
         "workload.yaml:4: models[0].priority: must be a whole number, got 1.5"),
        (HEAD + "  - name: 12\n", "workload.yaml:3: models[0].name: must be text (put it in quotes), got 12"),
        (HEAD + "  - name: ''\n", "workload.yaml:3: models[0].name: must not be empty, got ''"),
        (HEAD + "  - name: a\n    name: b\n", "workload.yaml:4: models[0].name: given twice, first in line 3"),
        (HEAD + "  - name: a\n    allowed_gpu: L4\n",
         "workload.yaml:4: models[0].allowed_gpu: must be a list, got 'L4'"),
        (HEAD + "  - a\n", "workload.yaml:3: models[0]: must be keys with values, got 'a'"),
        ("schema_version: 2\nmodels: []\n", "workload.yaml:1: schema_version: 2 is unknown; this version reads 1"),
        ("schema_version: true\n", "workload.yaml:1: schema_version: True is unknown"),
        ("models: []\n", "workload.yaml:1: schema_version: is missing; write schema_version: 1"),
        ("schema_version: 1\nmodels: []\n", "workload.yaml:2: models: must not be empty, got []"),
        ("- a\n", "workload.yaml:1: expected keys such as schema_version, got ['a']"),
        ("a: [\nb", "workload.yaml:2: not valid YAML: expected ',' or ']'"),
        ("a: \x01", "workload.yaml: not valid YAML: unacceptable character"),
        ("a: &x [*x]", "workload.yaml:1: this alias contains itself"),
        ("a: !!python/object b", "workload.yaml:1: the tag tag:yaml.org,2002:python/object is not allowed here"),
        ("? [a]\n: b", "workload.yaml:1: a key must be a plain word"),
        ("[" * 5000, "workload.yaml: nested too deeply"),
        ("a: " + "9" * 5000, "workload.yaml:1: '9999"),
        ("", "workload.yaml: the file is empty"),
        ("# only a comment\n", "workload.yaml: the file is empty"),
        (b"name: \xff", "workload.yaml: not UTF-8 text (byte 6); save it as UTF-8"),
    ],
)  # fmt: skip
def test_an_error_says_where_and_what(tmp_path: Path, content: str | bytes, message: str) -> None:
    error = error_of(tmp_path, content)
    assert isinstance(error, InputError)
    assert error.message.startswith(message)


def test_all_errors_are_listed_up_to_a_limit(tmp_path: Path) -> None:
    models = "".join(f"  - name: m{i}\n    rate_rp: 1\n" for i in range(MOST_ERRORS + 5))
    error = error_of(tmp_path, HEAD + models)
    assert error.message.startswith("workload.yaml:4: models[0].rate_rp: unknown key; did you mean rate_rps?")
    assert error.hint is not None
    assert len(error.hint.splitlines()) == MOST_ERRORS
    assert error.hint.endswith("and 5 more")


def test_a_mistyped_key_is_not_also_called_missing(tmp_path: Path) -> None:
    assert error_of(tmp_path, HEAD + "  - nmae: a\n").hint is None


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="this is a folder"):
        read_yaml(tmp_path)


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: [no, 1e3, 2026-05-01, 012, 1:30, ~, null, 0x10, -.5, True, '1']\n1: &x {b: 2}\nc: *x\n")
    assert read_yaml(path).value == {
        "a": ["no", 1000.0, "2026-05-01", 12, "1:30", None, None, "0x10", -0.5, True, "1"],
        "1": {"b": 2},
        "c": {"b": 2},
    }
