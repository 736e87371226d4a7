"""The GPUs and MIG devices of this machine, and how a user names one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from typing import Any

import pynvml

from planner.errors import DeviceError, InputError
from profiler.devices.nvml import Nvml, NvmlSilent, Question, Unknown

MIB, GIB = 2**20, 2**30
MEMORY_FRACTIONS = 8
COMPUTE_MODES = {
    pynvml.NVML_COMPUTEMODE_DEFAULT: "default",
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD: "exclusive-thread",
    pynvml.NVML_COMPUTEMODE_PROHIBITED: "prohibited",
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: "exclusive-process",
}

_BY_INDEX = re.compile(r"gpu:(\d+)(?::(\d+))?", re.IGNORECASE)
_BY_UUID = re.compile(r"(?:GPU|MIG)-\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """A GPU or MIG device, named `gpu:0` or `gpu:0:1`. None: unknown, with the reason by name in `unknown`.

    `name` is NVML's, of the whole GPU. `mig_profile` (such as 1g.10gb) and `parent_uuid` are set for a MIG
    device. `mig_devices` names those that a GPU in MIG mode is split into; nothing runs on it as a whole.
    `unusable` says why NVML tells nothing about a GPU that is there; it has no UUID and no name then.
    """

    spec: str
    uuid: str
    name: str
    memory_bytes: int | None = None
    mig_mode: bool = False
    mig_profile: str | None = None
    parent_uuid: str | None = None
    mig_devices: tuple[str, ...] = ()
    compute_mode: str | None = None
    power_limit_watts: float | None = None
    driver: str | None = None
    cuda: str | None = None
    nvml: str | None = None
    unusable: str | None = None
    unknown: dict[str, str] = field(default_factory=dict)


def find_gpus(nvml: Nvml) -> list[GpuFacts]:
    """Every GPU that NVML sees, each followed by its MIG devices; DeviceError where NVML tells nothing."""
    try:
        return nvml.run(lambda: list(_gpus(nvml)))
    except (Unknown, NvmlSilent) as error:
        raise DeviceError(f"NVML does not list the GPUs of this machine: {error}") from error


def find_gpu(nvml: Nvml, spec: str) -> GpuFacts:
    """The device that `gpu:0`, `gpu:0:1` (second MIG device of GPU 0) or a UUID means."""
    by_index = _BY_INDEX.fullmatch(spec)
    if by_index is None and not _BY_UUID.fullmatch(spec):
        raise InputError(f"--device {spec!r}: write gpu:0, gpu:0:1 for a MIG device, or the UUID of either")
    gpus = find_gpus(nvml)
    found = next((gpu for gpu in gpus if spec.lower() in (gpu.spec.lower(), gpu.uuid.lower())), None)
    if found is None:
        there = "; ".join(f"{gpu.spec} {gpu.uuid}".strip() for gpu in gpus) or "none"
        raise InputError(f"--device {spec}: there is no such GPU; there are {there}")
    if found.unusable is not None:
        raise DeviceError(f"--device {spec}: {found.unusable}")
    if found.mig_mode:
        parts = [f"{gpu.spec} {gpu.mig_profile}" for gpu in gpus if gpu.parent_uuid == found.uuid]
        hint = f"name one of its MIG devices: {'; '.join(parts)}" if parts else "create MIG devices, or end MIG mode"
        raise InputError(f"--device {spec}: this GPU is in MIG mode, no server can use it as a whole", hint=hint)
    return found


class _Asker:
    """Asks about one device and keeps the reasons for what is unknown."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self.unknown: dict[str, str] = {}

    def ask(self, what: str, *questions: Question) -> Any | None:
        try:
            return self._nvml.ask(*questions)
        except Unknown as reason:
            self.unknown[what] = str(reason)
            return None


def _gpus(nvml: Nvml) -> Iterator[GpuFacts]:
    for index in range(nvml.ask((pynvml.nvmlDeviceGetCount,))):
        spec = f"gpu:{index}"
        try:
            handle = nvml.ask((pynvml.nvmlDeviceGetHandleByIndex, index))
            mig_handles = list(_mig_handles(nvml, handle))
            migs = [_mig(nvml, f"{spec}:{number}", mig, handle) for number, mig in mig_handles]
            yield _gpu(nvml, spec, handle, tuple(mig.uuid for mig in migs))
            yield from migs
        except (Unknown, DeviceError) as error:
            # lost, or not ours to see: it cannot be measured, the others can
            yield GpuFacts(spec=spec, uuid="", name="", unusable=str(error))


def _gpu(nvml: Nvml, spec: str, handle: Any, mig_devices: tuple[str, ...]) -> GpuFacts:
    asker = _Asker(nvml)
    mode = asker.ask("mig_mode", (pynvml.nvmlDeviceGetMigMode, handle))
    return GpuFacts(
        spec=spec,
        uuid=nvml.ask((pynvml.nvmlDeviceGetUUID, handle)),
        name=nvml.ask((pynvml.nvmlDeviceGetName, handle)),
        mig_mode=mode is not None and mode[0] == 1,
        mig_devices=mig_devices,
        **_common(asker, handle, handle),
    )


def _mig(nvml: Nvml, spec: str, handle: Any, parent: Any) -> GpuFacts:
    asker = _Asker(nvml)
    common = _common(asker, handle, parent)
    parent_total = asker.ask("parent_memory", *memory_questions(parent))
    return GpuFacts(
        spec=spec,
        uuid=nvml.ask((pynvml.nvmlDeviceGetUUID, handle)),
        name=nvml.ask((pynvml.nvmlDeviceGetName, parent)),
        mig_profile=_profile(asker, handle, None if parent_total is None else parent_total.total),
        parent_uuid=nvml.ask((pynvml.nvmlDeviceGetUUID, parent)),
        **common,
    )


def _common(asker: _Asker, handle: Any, board: Any) -> dict[str, Any]:
    memory = asker.ask("memory_bytes", *memory_questions(handle))
    mode = asker.ask("compute_mode", (pynvml.nvmlDeviceGetComputeMode, board))
    limit = asker.ask("power_limit_watts", (pynvml.nvmlDeviceGetEnforcedPowerLimit, board))
    cuda = asker.ask("cuda", (pynvml.nvmlSystemGetCudaDriverVersion_v2,))
    return {
        "memory_bytes": None if memory is None else memory.total,
        "compute_mode": None if mode is None else COMPUTE_MODES.get(mode, str(mode)),
        "power_limit_watts": None if limit is None else limit / 1000,
        "driver": asker.ask("driver", (pynvml.nvmlSystemGetDriverVersion,)),
        "cuda": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        "nvml": asker.ask("nvml", (pynvml.nvmlSystemGetNVMLVersion,)),
        "unknown": asker.unknown,
    }


def memory_questions(handle: Any) -> Sequence[Question]:
    """Version 2 keeps what the driver reserves apart from what is used; older libraries have version 1."""
    return (
        (pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2),
        (pynvml.nvmlDeviceGetMemoryInfo, handle),
    )


def _mig_handles(nvml: Nvml, handle: Any) -> Iterator[tuple[int, Any]]:
    try:
        count = nvml.ask((pynvml.nvmlDeviceGetMaxMigDeviceCount, handle))
    except Unknown:
        return
    for number in range(count):
        try:
            yield number, nvml.ask((pynvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number))
        except Unknown:
            continue  # an empty place


def _profile(asker: _Asker, handle: Any, parent_bytes: int | None) -> str | None:
    """The profile's name, as nvidia-smi prints it, from the slices and the memory.

    The number of GB is the share of the GPU's memory in eighths, rounded up, of its GiB.
    """
    attributes = asker.ask("mig_profile", (pynvml.nvmlDeviceGetAttributes_v2, handle))
    if attributes is None or parent_bytes is None:
        return None
    share = ceil(attributes.memorySizeMB * MIB / parent_bytes * MEMORY_FRACTIONS) / MEMORY_FRACTIONS
    size = floor(share * ceil(parent_bytes / GIB) + 0.5)
    compute, gpu = attributes.computeInstanceSliceCount, attributes.gpuInstanceSliceCount
    name = f"{gpu}g.{size}gb"
    return name if compute == gpu else f"{compute}c.{name}"
