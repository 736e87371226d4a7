"""Where the servers of a sweep come from: started here, one for each configuration, or one that somebody else runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from planner.domain.serving import Access, Server
from planner.emit import config_pbtxt
from planner.errors import InputError, NotFoundError
from planner.inputs import fleet as fleets
from planner.inputs.catalogue import resolve_type
from planner.workflow.cores import CoreShare
from planner.workflow.devices import MeasuredDevice
from planner.workflow.manual import overridden
from planner.workflow.measured_models import models_to_measure, require_model
from planner.workflow.model_files import ModelFiles
from profiler.devices.remote import RemoteDevice
from profiler.points import Configuration, ModelFacts
from profiler.progress import MeasureReporter
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from profiler.server.metrics import metrics_url, read_metrics
from profiler.server.remote import RemoteHost, RemoteTriton, as_json, parse_url

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
REMOTE_REPOSITORY = "the server's repository"


class MeasuredServer(Protocol):
    """`target` is the device that profiles are of."""

    @property
    def target(self) -> MeasuredDevice: ...

    def version(self) -> str: ...

    def start(self, repository: Path) -> Server:
        """A server over what `write` put into the repository, nothing of it loaded."""
        ...

    def write(self, model: ModelFacts, configuration: Configuration, repository: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class LocalServers:
    target: MeasuredDevice
    installation: TritonInstallation
    scratch: Path
    files: ModelFiles
    start_deadline_s: float

    def version(self) -> str:
        """From a server without models: where none starts, this says so before anything else is tried."""
        empty = self.scratch / "empty"
        empty.mkdir()
        with self.start(empty) as server:
            return server.server_version

    def start(self, repository: Path) -> LocalTriton:
        return LocalTriton.start(
            self.installation,
            repository,
            cores=self.target.share.device,
            gpu_uuid=self.target.gpu_uuid,
            log_path=self.scratch / "triton.log",
            ready_timeout_s=self.start_deadline_s,
        )

    def write(self, model: ModelFacts, configuration: Configuration, repository: Path) -> None:
        """An ensemble together with its members, each with the configuration's instances and all else its own."""
        for member in model.members:
            own = Configuration(configuration.instances, member.max_batch_size, member.queue_delay_us)
            self._write_one(member, own, repository)
        self._write_one(model, configuration, repository)

    def _write_one(self, model: ModelFacts, configuration: Configuration, repository: Path) -> None:
        self.files.require_unchanged(model)
        write_configured(model, configuration, repository, on_gpu=bool(self.target.gpu_uuid))


@dataclass(frozen=True, slots=True)
class RemoteServer:
    """A server that runs already. `described` is a model repository of what it tells of its models."""

    target: MeasuredDevice
    host: RemoteHost
    described: Path

    def version(self) -> str:
        return self.host.server_version

    def models(self, names: Sequence[str] | None, reporter: MeasureReporter) -> list[ModelFacts]:
        """The named ones, loaded for a moment where they are not; else all that are loaded and can be measured."""
        there = self.host.control.models()
        for name in names or ():
            require_model(name, sorted(there), REMOTE_REPOSITORY)
        asked = [name for name, ready in there.items() if ready] if names is None else names
        if not asked:
            raise NotFoundError("no model is loaded on the server", hint="name the models that are to be loaded")
        for name in asked:
            self._describe(name)
        if not self.host.allows_loading:
            reporter.note("the server loads no models on request: each is measured as it is loaded there")
        return [
            self._as_there(model) for model in models_to_measure(self.described, names, reporter, REMOTE_REPOSITORY)
        ]

    def _describe(self, name: str) -> None:
        folder = self.described / name
        if folder.is_dir():
            return
        folder.mkdir(parents=True)
        config = self.host.config(name)
        config_pbtxt.write_config(config, folder / config_pbtxt.CONFIG_NAME)
        for member in config_pbtxt.ensemble_members(config):
            self._describe(member)
        self.host.put_back(name)

    def _as_there(self, model: ModelFacts) -> ModelFacts:
        """Its files cannot be seen: the digest is of the configuration alone, and says so."""
        digest = f"config-{model.digest}"
        if self.host.allows_loading and not model.members:
            return replace(model, digest=digest)
        return replace(model, digest=digest, fixed=_fixed(model), members=tuple(
            replace(member, digest=f"config-{member.digest}", fixed=_fixed(member)) for member in model.members
        ))  # fmt: skip

    def start(self, repository: Path) -> RemoteTriton:
        configs = {path.parent.name: config_pbtxt.read_config(path) for path in repository.glob("*/config.pbtxt")}
        return RemoteTriton(self.host, {name: as_json(config) for name, config in configs.items()})

    def write(self, model: ModelFacts, configuration: Configuration, repository: Path) -> None:
        """The configuration alone, and nothing for a model that is measured as it is loaded there."""
        if model.fixed is not None:
            return
        config = config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME)
        on_gpu = any(group.kind == group.KIND_GPU for group in config.instance_group)
        (repository / model.name).mkdir()
        changed = _configured(config, configuration, on_gpu=on_gpu)
        config_pbtxt.write_config(changed, repository / model.name / config_pbtxt.CONFIG_NAME)


def write_configured(
    model: ModelFacts, configuration: Configuration, repository: Path, *, on_gpu: bool = False
) -> None:
    """The model's files with its config.pbtxt as configured."""
    config = config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME)
    config_pbtxt.write_model(model.path, repository / model.name, _configured(config, configuration, on_gpu=on_gpu))


def _configured(config: Any, configuration: Configuration, *, on_gpu: bool) -> Any:
    changed = config_pbtxt.configure(
        config,
        instances=configuration.instances,
        max_batch_size=configuration.max_batch_size,
        queue_delay_us=configuration.queue_delay_us,
        kind="KIND_GPU" if on_gpu else "KIND_CPU",
        gpus=(0,) if on_gpu else (),
    )
    return overridden(changed, configuration)


def _fixed(model: ModelFacts) -> Configuration:
    config = config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME)
    gpus = {gpu for group in config.instance_group for gpu in group.gpus}
    if len(gpus) > 1:
        raise InputError(f"model {model.name!r} runs on {len(gpus)} GPUs of the server, and a profile is of one")
    instances = max(1, sum(group.count for group in config.instance_group))
    return Configuration(instances, model.max_batch_size, model.queue_delay_us)


def remote_server(
    url: str, access: Access, metrics: str | None, device: str | None, fleet: Path, described: Path
) -> tuple[RemoteServer, Sequence[str]]:
    """The server at a URL, and what a person should know of it. `device` is the type that it runs on, which Triton
    does not tell, `metrics` the URL of what it tells of its machine."""
    if device is None:
        raise InputError(
            f"--server {url}: which type of device it runs on is not known here",
            hint="name it with --device, for example --device A100-80, --device A100-80/1g.10gb or --device cpu-8",
        )
    types = fleets.read_types(fleet) if fleet.exists() else fleets.known_types()
    name, slash, profile = device.partition("/")
    endpoint = parse_url(url, access)
    if metrics is not None and not metrics.startswith(("http://", "https://")):
        raise InputError(f"--metrics-url {metrics}: http:// or https:// comes first")
    metrics = metrics or metrics_url(endpoint)
    share = CoreShare(None, tuple(sorted(os.sched_getaffinity(0))))
    target = MeasuredDevice(f"{resolve_type(name, types).name}{slash}{profile}", RemoteDevice(metrics), share, "", ())
    notes = ["memory and busy time are unknown: the server is not started here"]
    if endpoint.access.headers and not endpoint.access.tls and endpoint.host not in _LOOPBACK:
        notes.append("the headers are sent without encryption; grpcs:// and https:// encrypt them")
    host = RemoteHost(endpoint)
    try:
        read_metrics(metrics)
    except (OSError, ValueError) as error:
        notes.append(f"what its machine does is unknown, too: {metrics} cannot be read ({error}); see --metrics-url")
    return RemoteServer(target, host, described), notes
