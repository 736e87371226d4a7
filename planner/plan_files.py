"""A plan on disk: plan.json, beside it problem.json, so that a plan can be checked with nothing else, and
certificate.json where bounds are proved.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from planner.domain.certificate import Certificate, certificate_from_json
from planner.domain.codec import to_json
from planner.domain.plan import Plan, plan_from_json
from planner.domain.problem import Problem, problem_from_json
from planner.errors import InputError, NotFoundError
from planner.files import write_all

PLAN_FILE = "plan.json"
PROBLEM_FILE = "problem.json"
CERTIFICATE_FILE = "certificate.json"


def write_plan(folder: Path, problem: Problem, plan: Plan, certificate: Certificate | None = None) -> None:
    """All files or none: an error (a full disk, an interruption) leaves an older plan as it was.

    Without a certificate the one of an older plan goes.
    """
    values = {PROBLEM_FILE: problem, PLAN_FILE: plan, CERTIFICATE_FILE: certificate}
    texts = {folder / name: json_text(to_json(value)) for name, value in values.items() if value is not None}
    write_all(texts, absent=[] if certificate else [folder / CERTIFICATE_FILE])


def read_plan(path: Path) -> tuple[Problem, Plan]:
    """Read the plan that `path`, a folder or its plan.json, names; errors name the file and the field.

    Whether plan and problem belong together is for `planner.domain.check` to say.
    """
    folder = plan_folder(path)
    plan_path = folder / PLAN_FILE if path.is_dir() else path
    problem_path = folder / PROBLEM_FILE
    plan = plan_from_json(read_json(plan_path), f"{plan_path}: plan")
    problem = problem_from_json(read_json(problem_path), f"{problem_path}: problem")
    return problem, plan


def read_certificate(path: Path) -> Certificate | None:
    """The certificate beside the plan that `path` names; None where there is none."""
    file = plan_folder(path) / CERTIFICATE_FILE
    if not file.exists():
        return None
    return certificate_from_json(read_json(file), f"{file}: certificate")


def plan_folder(path: Path) -> Path:
    """The folder of a plan that is named by its folder or by its plan.json."""
    return path if path.is_dir() else path.parent


def plan_digest(plan: Plan) -> str:
    """Tells one plan from another of the same problem; sha256 over the canonical JSON text."""
    text = json.dumps(to_json(plan), sort_keys=True, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def json_text(value: object) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Parsed JSON; NotFoundError, or InputError with the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", hint="`planner solve` writes a plan") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file") from error
    except ValueError as error:  # a whole number of more digits than Python reads
        raise InputError(f"{path}: {error}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
