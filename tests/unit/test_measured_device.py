"""What --device means on this machine, with simulated GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.errors import DeviceError, InputError
from planner.workflow.devices import MeasuredDevice, measured_device
from tests.simulated_gpus import A100, MIG_1G, MIG_3G, ONE_GPU, SPLIT, SPLIT_GPU, SimulatedNvml

NO_FLEET = Path("no fleet")
OWN_TYPE = """\
schema_version: 1
nodes: [{name: n, gpus: 1xbench}]
gpu_types: {bench: {memory: 79GiB, aliases: [NVIDIA A900 Prototype]}}
"""


def named(name: str, cores: tuple[int, ...] = (), fleet: Path = NO_FLEET) -> MeasuredDevice:
    return measured_device(name, cores, fleet, usable=(0, 1, 2, 3))


def test_cores() -> None:
    found = named("cpu-2")
    assert (found.type_name, found.gpu_uuid, found.share.device, found.share.generator) == (
        "cpu-2", "", (0, 1), (2, 3),
    )  # fmt: skip
    with pytest.raises(InputError, match="cpu-2 has 2 cores, 1 are named"):
        named("cpu-2", (3,))
    with pytest.raises(InputError, match="--exclusive is for GPUs, and --device cpu-1 is none"):
        measured_device("cpu-1", (), NO_FLEET, exclusive=True)


@pytest.mark.parametrize(
    ("name", "type_name", "uuid"),
    [
        ("gpu:0", "A100-80", A100),
        (A100, "A100-80", A100),
        ("gpu:1:0", "A100-80/1g.10gb", MIG_1G),
        (MIG_3G, "A100-80/3g.40gb", MIG_3G),
    ],
    ids=["place", "uuid", "mig place", "mig uuid"],  # the simulated UUIDs differ in each process
)
def test_gpus_are_named_by_place_or_uuid_and_pinned_by_uuid(
    gpus_here: SimulatedNvml, name: str, type_name: str, uuid: str
) -> None:
    gpus_here.show(ONE_GPU, *SPLIT_GPU)
    found = named(name)
    assert (found.type_name, found.gpu_uuid) == (type_name, uuid)
    assert (found.share.device, found.share.generator) == (None, (0, 1, 2, 3))
    assert named(name, (2, 3)).share.device == (2, 3)
    assert named(name, (2, 3)).share.generator == (0, 1)
    assert found.device.facts()["gpu"]["uuid"] == uuid  # type: ignore[index]


def test_a_gpu_in_mig_mode_cannot_be_measured_as_a_whole(gpus_here: SimulatedNvml) -> None:
    gpus_here.show(*SPLIT_GPU)
    with pytest.raises(InputError, match="in MIG mode"):
        named(SPLIT)
    gpus_here.show(*SPLIT_GPU, "answer nvmlDeviceGetAttributes_v2 3")
    with pytest.raises(DeviceError, match="its MIG profile is unknown: nvmlDeviceGetAttributes_v2: Not Supported"):
        named(MIG_1G)


def test_a_gpu_that_no_catalogue_knows(gpus_here: SimulatedNvml, tmp_path: Path) -> None:
    gpus_here.show(f"gpu {A100} 81920 0 0 NVIDIA A900 Prototype", "answer nvmlDeviceGetEnforcedPowerLimit 3")
    found = named("gpu:0")
    assert found.type_name == "A900-Prototype"
    assert any("is not in the catalogue: its profiles are named A900-Prototype" in note for note in found.notes)
    assert any("power_limit_watts is unknown: nvmlDevice" in note for note in found.notes)
    (tmp_path / "fleet.yaml").write_text(OWN_TYPE)
    assert named("gpu:0", fleet=tmp_path / "fleet.yaml").type_name == "bench"


def test_a_type_is_no_gpu_of_this_machine() -> None:
    with pytest.raises(InputError, match="'A100': a GPU of this machine is named by its place or its UUID"):
        named("A100")
