"""A plan as folders to deploy: one Triton model repository per device, launch files and the routing table.

Version folders and everything else of a model are links to their absolute place by default: the emitted
folder may be moved, the source repository may not. For another machine or a container, copy.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from planner.domain.plan import Plan, PlannedEnsemble, Replica
from planner.domain.problem import Problem
from planner.emit.config_pbtxt import CONFIG_NAME, configure, ensemble_members, read_config, write_model
from planner.emit.launch import launch_script
from planner.emit.mig_parted import mig_parted
from planner.emit.places import Place, places
from planner.emit.routing import is_routing, routing
from planner.errors import InputError, NotFoundError, PlannerError
from planner.files import whole_folder
from planner.plan_files import json_text

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

ROUTING_FILE = "routing.json"
LAUNCH_FILE = "launch.sh"
MIG_PARTED_FILE = "mig-parted.yaml"
TARGETS = ("repository", "mig-parted")


def emit(
    problem: Problem, plan: Plan, source_repository: Path, out: Path, *, targets: Iterable[str], copy: bool
) -> list[Place]:
    """Write the folder `out`, whole or not at all, and say what stands where. Other targets are files beside the
    repositories.

    A folder that an earlier emit wrote, and that holds nothing else, is replaced in one step. InputError or
    NotFoundError for what is wrong with the models, an unknown target or a foreign folder; SetupError where it
    cannot be written.
    """
    asked = tuple(targets)
    _require_known(asked)
    if not source_repository.is_dir():
        raise NotFoundError(f"model repository {source_repository} is not a folder", hint="name it: --model-repository")
    _require_apart(source_repository, out)
    found = places(problem, plan)
    layouts = mig_parted(problem, plan) if "mig-parted" in asked else None
    with whole_folder(out, is_ours=_is_ours) as folder:
        for place in found:
            models = folder / place.node / place.folder / "models"
            _write_repository(place, plan.ensembles, source_repository, models, copy=copy)
        _write_launch_files(found, folder)
        text = json_text(routing(plan, found))
        (folder / ROUTING_FILE).write_text(text, encoding="utf-8")
        if layouts is not None:
            (folder / MIG_PARTED_FILE).write_text(layouts, encoding="utf-8")
    return found


def repository_of(place: Place, out: Path) -> Path:
    """The model repository of one device in an emitted folder."""
    return out / place.node / place.folder / "models"


def _write_repository(
    place: Place, ensembles: Sequence[PlannedEnsemble], source: Path, target: Path, *, copy: bool
) -> None:
    target.mkdir(parents=True)
    for replica in place.replicas:
        _write_model(replica, place, source / replica.model, target / replica.model, copy=copy)
    for name in place.ensembles:
        members = next(e.members for e in ensembles if e.name == name)
        names = [member.model for member in members]
        batch = min(replica.max_batch_size for replica in place.replicas if replica.model in names)
        _write_ensemble(name, names, batch, source / name, target / name, copy=copy)


def _write_model(replica: Replica, place: Place, source: Path, target: Path, *, copy: bool) -> None:
    config = _read_source(source, replica.model)
    _require_members(config, place)
    configured = configure(
        config,
        instances=replica.instances,
        max_batch_size=replica.max_batch_size,
        queue_delay_us=replica.queue_delay_us,
        kind="KIND_GPU" if place.cores is None else "KIND_CPU",
        gpus=tuple(range(len(place.gpus))) if place.cores is None else (),
    )
    write_model(source, target, configured, copy=copy)
    if read_config(target / CONFIG_NAME) != configured:
        raise PlannerError(f"the configuration written for {replica.model!r} does not read back as it was meant")


def _write_ensemble(
    name: str, members: Sequence[str], max_batch_size: int, source: Path, target: Path, *, copy: bool
) -> None:
    """The user's own ensemble, for which tensor goes where is theirs to say; its batches fit all of its members."""
    if not source.is_dir():
        raise NotFoundError(
            f"ensemble {name!r} of the plan is not in the model repository {source.parent}",
            hint=f'it needs {source / CONFIG_NAME} with platform: "ensemble" and its ensemble_scheduling',
        )
    config = _read_source(source, name)
    steps = ensemble_members(config)
    if set(steps) != set(members):
        found = f"steps for {', '.join(steps)}" if steps else "no ensemble_scheduling"
        raise InputError(
            f"{source / CONFIG_NAME} has {found}; as planned, ensemble {name!r} calls {', '.join(members)}",
            hint="workload.yaml and the ensemble must name the same members",
        )
    config.platform = "ensemble"
    config.max_batch_size = min(config.max_batch_size, max_batch_size)
    write_model(source, target, config, copy=copy)


def _read_source(source: Path, model: str) -> ModelConfig:
    _require_model(source, model)
    config = read_config(source / CONFIG_NAME)
    if config.name != model:
        raise InputError(
            f"{source / CONFIG_NAME}: its name is {config.name!r}, but Triton calls a model by its folder",
            hint=f"write name: {json.dumps(model)}, or leave the line out",
        )
    return config


def _require_members(config: ModelConfig, place: Place) -> None:
    for member in ensemble_members(config):
        if member not in place.models:
            raise InputError(
                f"ensemble {config.name!r} on {place.device.device} calls {member!r}, "
                "which the plan does not place there",
                hint="a server runs an ensemble only where it has all of its members",
            )


def _require_model(source: Path, model: str) -> None:
    if not source.is_dir():
        known = sorted(path.name for path in source.parent.iterdir() if path.is_dir())
        near = difflib.get_close_matches(model, known, n=3)
        raise NotFoundError(
            f"model {model!r} of the plan is not in the model repository {source.parent}",
            hint=f"did you mean {', '.join(near)}?" if near else f"it holds {', '.join(known) or 'no model'}",
        )
    if not any(entry.is_dir() and entry.name.isdigit() and int(entry.name) > 0 for entry in source.iterdir()):
        raise InputError(
            f"model {model!r} in {source.parent} has no version folder", hint=f"put its files into {source / '1'}"
        )


def _write_launch_files(found: Sequence[Place], folder: Path) -> None:
    for node, own in groupby(sorted(found, key=lambda place: place.node), key=lambda place: place.node):
        path = folder / node / LAUNCH_FILE
        path.write_text(launch_script(node, list(own)), encoding="utf-8")
        path.chmod(path.stat().st_mode | 0o111)


def _require_known(targets: Iterable[str]) -> None:
    for target in targets:
        if target not in TARGETS:
            raise InputError(f"unknown target {target!r}; allowed: {', '.join(TARGETS)}")


def _require_apart(source: Path, out: Path) -> None:
    """Replacing `out` must never touch the models it is made from."""
    left, right = source.resolve(), out.resolve()
    if left == right or left in right.parents or right in left.parents:
        raise InputError(f"the output {out} and the model repository {source} lie inside each other")


def _is_ours(folder: Path) -> bool:
    """Whether an emit wrote it, and nobody put anything of theirs beside the nodes."""
    try:
        written = is_routing(json.loads((folder / ROUTING_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    files = (ROUTING_FILE, MIG_PARTED_FILE)
    return written and all(entry.name in files or (entry / LAUNCH_FILE).is_file() for entry in folder.iterdir())
