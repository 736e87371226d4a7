"""What a sweep must know of the models that it measures, and whether they can be measured at all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.random import default_rng

from planner.domain.serving import LoadMode, LoadSpec
from planner.emit import config_pbtxt
from planner.errors import InputError, NotFoundError
from planner.inputs.yaml_file import nearest
from profiler.load.requests import inferences, refuse_decoupled, requests_of
from profiler.points import InputFile, ModelFacts, model_digest
from profiler.progress import MeasureReporter


def models_to_measure(
    repository: Path, names: Sequence[str] | None, reporter: MeasureReporter, where: str
) -> list[ModelFacts]:
    """The named models, else all that can be measured alone; the others are told. `where` is how errors about
    models call the repository."""
    if not repository.is_dir():
        raise NotFoundError(f"--model-repository {repository}: no such folder")
    there = model_names(repository)
    if not there:
        raise NotFoundError(f"--model-repository {repository}: no folder in it has a {config_pbtxt.CONFIG_NAME}")
    for name in names or ():
        require_model(name, there, where)
    if names is not None:
        return [facts(repository / name) for name in names]
    found = []
    for name in there:
        config = _config(repository / name)
        if config.HasField("ensemble_scheduling"):
            reporter.note(
                f"{name} is an ensemble and was left out: its members are measured; name it to measure it whole"
            )
        elif config.model_transaction_policy.decoupled:
            reporter.note(f"{name} is decoupled and was left out: it may answer a request any number of times")
        else:
            found.append(facts(repository / name))
    if not found:
        raise InputError(f"{where}: no model in it can be measured alone", hint="name an ensemble to measure it whole")
    return found


def model_names(repository: Path) -> list[str]:
    """Of the models in a folder."""
    return sorted(path.parent.name for path in repository.glob(f"*/{config_pbtxt.CONFIG_NAME}"))


def require_model(name: str, there: Sequence[str], where: str, *, asked_by: str = "") -> None:
    """NotFoundError where `there`, the models of the repository that is called `where`, lack one. `asked_by`: the
    file and the field that name it."""
    if name not in there:
        close = nearest(name, there, count=3) or there[:10]
        about = f"{asked_by}: {name!r}" if asked_by else f"model {name!r}"
        raise NotFoundError(f"{about} is not in {where}; there are {', '.join(close)}")


def facts(path: Path, above: tuple[str, ...] = ()) -> ModelFacts:
    """Of a model in its folder; of an ensemble also of its members, and theirs, in the folders beside it.

    InputError for what is decoupled, or an ensemble that calls itself (`above` are those that call this one).
    """
    config = _config(path)
    refuse_decoupled(config)
    chain = (*above, path.name)
    members: dict[str, ModelFacts] = {}
    for name in config_pbtxt.ensemble_members(config):
        if name in chain:
            raise InputError(f"ensemble {path.name!r} calls itself: {' -> '.join((*chain, name))}")
        if not (path.parent / name / config_pbtxt.CONFIG_NAME).is_file():
            raise NotFoundError(f"ensemble {path.name!r} calls {name!r}, which is not in {path.parent}")
        member = facts(path.parent / name, chain)
        members |= {inner.name: inner for inner in member.members} if member.members else {}
        members[member.name] = replace(member, members=())
    return ModelFacts(
        name=path.name,
        path=path,
        backend=config_pbtxt.backend_name(config),
        max_batch_size=config.max_batch_size,
        queue_delay_us=config_pbtxt.queue_delay_us(config),
        digest=model_digest(path),
        is_stateful=config.HasField("sequence_batching"),
        members=tuple(members.values()),
    )


def _config(path: Path) -> Any:
    return config_pbtxt.read_config(path / config_pbtxt.CONFIG_NAME)


def with_model(text: str, models: Sequence[ModelFacts], option: str) -> tuple[str, str]:
    """ "MODEL:REST" as the model and the rest; without MODEL, where one model is measured, that one."""
    model, colon, rest = text.partition(":")
    names = [one.name for one in models]
    if colon and model in names:
        return model, rest
    if len(names) == 1:
        return names[0], text
    raise InputError(f"{option} {text!r}: begin with a model that is measured and a colon: {', '.join(names)}")


def parse_shapes(texts: Sequence[str], models: Sequence[ModelFacts]) -> dict[str, dict[str, tuple[int, ...]]]:
    """Of `--shape [MODEL:]INPUT:1,128`."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for text in texts:
        model, rest = with_model(text, models, "--shape")
        name, colon, sizes = rest.rpartition(":")
        if not colon or not name or not all(size.isdigit() and int(size) > 0 for size in sizes.split(",")):
            raise InputError(f"--shape {text!r}: write [MODEL:]INPUT:SIZES, for example {models[0].name}:x:1,128")
        found.setdefault(model, {})[name] = tuple(map(int, sizes.split(",")))
    return found


def check_inputs(
    models: Sequence[ModelFacts],
    paths: Mapping[str, Path],
    shapes: Mapping[str, Mapping[str, Sequence[int]]],
    request_batch_sizes: Sequence[int],
) -> dict[str, InputFile]:
    """The request files of the models that are measured. InputError, before anything starts, where a model's
    inputs cannot be made up, a file does not fit its model, or its requests cannot carry that many inferences."""
    files = {}
    for model in models:
        path, config = paths.get(model.name), _config(model.path)
        spec = LoadSpec(
            model.name, LoadMode.CLOSED, 1.0, concurrency=1, shapes=shapes.get(model.name, {}), input_file=path
        )
        streams = inferences(config, spec, default_rng(0))
        for size in request_batch_sizes:
            if model.takes(size):
                requests_of(config, replace(spec, request_batch_size=size), streams)
        if path is not None:
            found = {tuple((tensor.name, tensor.shape) for tensor in one) for stream in streams for one in stream}
            files[model.name] = InputFile(path, _digest(path), len(found) == 1)
    return files


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
