"""Fleets: files, counts on the command line, and the many names of one GPU type."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.domain.fleet import DeviceClass, Fleet
from planner.errors import InputError, NotFoundError
from planner.inputs.catalogue import catalogue, resolve_type
from planner.inputs.fleet import fleet_from_counts, read_fleet, read_types

GOLDEN = Path(__file__).parents[1] / "golden"
GIB = 2**30


def read(tmp_path: Path, text: str) -> Fleet:
    path = tmp_path / "fleet.yaml"
    path.write_text(f"schema_version: 1\n{text}\n")
    return read_fleet(path)


def test_version_1_is_still_read() -> None:
    fleet = read_fleet(GOLDEN / "fleet-v1.yaml")
    assert [n.name for n in fleet.nodes] == ["dgx-01", "dgx-02", "edge"]
    assert (fleet.nodes[0].host_memory_bytes, fleet.nodes[0].host_cpu) == (1024 * GIB, 128)
    assert (fleet.nodes[1].rack, fleet.nodes[1].zone) == ("r1", "z1")
    assert [(g.id, g.type, g.usd_per_hour) for g in fleet.gpus[:4]] == [
        ("dgx-01/0", "A100-80", 13.7), ("dgx-01/1", "A100-80", 13.7),
        ("dgx-02/0", "A100-80", 13.7), ("dgx-02/1", "A100-80", 13.7),
    ]  # fmt: skip
    edge = [(g.id, g.type, g.cordoned, g.reserve_bytes) for g in fleet.gpus[4:]]
    assert edge == [
        ("edge/0", "L4", True, 2 * GIB), ("edge/1", "L4", True, 2 * GIB),
        ("edge/2", "cpu-1", False, 0), ("edge/3", "mine", False, 0),
    ]  # fmt: skip
    types = fleet.types
    assert (types["A100-80"].usd_per_hour, types["A100-80"].price_date) == (3.43, "2026-05-01")
    assert types["A100-80"].memory_bytes == catalogue()["A100-80"].memory_bytes
    assert (types["cpu-1"].kind, types["cpu-1"].memory_bytes) == (DeviceClass.CPU, 2 * GIB)
    assert (types["mine"].memory_bytes, types["mine"].purchase_usd) == (24 * GIB, 1000)
    assert read_types(GOLDEN / "fleet-v1.yaml") == types


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nodes: [{name: a, gpus: A100x8}]", r":2: nodes\[0\].gpus: 'A100x8': the count goes first: write 8xA100"),
        ("nodes:\n  - name: a\n    gpus: 8xA199", r":4: nodes\[0\].gpus\[0\].type: unknown GPU type 'A199'"),
        ("nodes: [{name: a, gpus: []}]", r"nodes\[0\].gpus: must not be empty"),
        ("nodes: [{name: a, gpus: [{type: L4, count: 0}]}]", r"gpus\[0\].count: must be at least 1"),
        ("nodes: [{name: a, gpus: [{type: L4, mig_layout: x}]}]", r"mig_layout: must be a list, got 'x'"),
        ("nodes: [{name: a, gpus: L4}]\nlimits: [{scope: rack}]", r":3: limits\[0\]: a limit needs power_watts or usd"),
        ("nodes: [{name: a, gpus: L4}]\nlimits: [{scope: zone, power_watts: 1}]", "must be 'node', 'rack' or 'fleet'"),
        (
            "nodes: [{name: a, gpus: L4}]\nlimits: [{scope: rack, power_watts: 1}]",
            r"limits\[0\].scope: node 'a' has no rack",
        ),
        (
            "nodes: [{name: a, gpus: L4}]\nlimits: [{scope: node, name: b, usd_per_hour: 1}]",
            r"limits\[0\].name: there is no node 'b'",
        ),
        (
            "nodes: [{name: a, gpus: L4}]\nlimits: [{scope: fleet, name: b, usd_per_hour: 1}]",
            "there is one fleet, it needs no name",
        ),
        ("nodes: [{name: a, gpus: L4, purchase_usd: 3}]", "purchase_usd: is not supported by this version yet"),
        ("nodes: [{name: a, gpus: [{type: L4, reserve: 24}]}]", "24 is less than 1 MiB; write the unit"),
        ("nodes: [{name: a, gpus: [{type: L4, reserve: 2Gx}]}]", "'2Gx' is not an amount of memory"),
        ("nodes: [{name: a, gpus: [{type: L4, reserve: true}]}]", "must be an amount of memory"),
        ("nodes: [{name: 'a-[3-1]', gpus: L4}]", "a range goes from the smaller to the larger number"),
        ("nodes: [{name: 'a/b', gpus: L4}]", "a node's name may hold"),
        ("nodes: [{name: 'a[1-2]', gpus: L4}, {name: a2, gpus: L4}]", r"nodes\[1\].name: node 'a2' is given twice"),
        ("nodes: [{name: a, gpus: L4}]\ngpu_types: {X: {power_watts: 3}}", ":3: gpu_types.X: memory is missing"),
        (
            "nodes: [{name: a, gpus: L4}]\ngpu_types: {L4: {cores: 3}}",
            "gpu_types.L4: gpu type 'L4': cores must be given",
        ),
        ("nodes: [{name: a, gpus: L4}]\ngpu_types: {L4: {usd: 3}}", "gpu_types.L4.usd: unknown key"),
        ("nodes: []", "nodes: must not be empty"),
    ],
)
def test_file_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises((InputError, NotFoundError), match=message):
        read(tmp_path, text)


def test_counts_make_nodes_of_eight() -> None:
    fleet, notes = fleet_from_counts(["9xA100", "2xcpu-2", "L4"])
    assert [(n.name, sum(g.node == n.name for g in fleet.gpus)) for n in fleet.nodes] == [
        ("node1", 8), ("node2", 1), ("node3", 2), ("node4", 1),
    ]  # fmt: skip
    assert [g.id for g in fleet.gpus if g.node == "node3"] == ["node3/0", "node3/1"]
    assert notes == ["A100 is read as A100-80"]
    assert fleet.types["cpu-2"].memory_bytes == 8 * GIB


def test_a_very_large_count() -> None:
    fleet, _ = fleet_from_counts(["100001xL4"])
    assert len(fleet.gpus) == 100_001
    assert len(fleet.nodes) == 12_501


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["A100x8"], "write 8xA100"),
        (["0xL4"], "between 1 and 1000000"),
        (["1000001xL4"], "between 1 and 1000000"),
        (["9" * 5000 + "xL4"], "between 1 and 1000000"),
        (["600000xL4", "600000xL4"], "at most 1000000 GPUs"),
        ([""], "a GPU type is missing"),
        (["2xL5"], "unknown GPU type 'L5'"),
    ],
)
def test_count_errors(specs: list[str], message: str) -> None:
    with pytest.raises((InputError, NotFoundError), match=message):
        fleet_from_counts(specs)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("A100", "A100-80"), ("a100-80", "A100-80"), ("NVIDIA A100-SXM4-80GB", "A100-80"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80"), ("NVIDIA A100-SXM4-40GB", "A100-40"), ("Tesla-T4", "T4"),
        ("NVIDIA TITAN RTX", "TITAN-RTX"), ("NVIDIA H100 80GB HBM3", "H100-80"), ("nvidia_l4", "L4"),
        ("CPU-4", "cpu-4"),
    ],
)  # fmt: skip
def test_names_of_nvml_and_feature_discovery(name: str, found: str) -> None:
    assert resolve_type(name, catalogue()).name == found


def test_an_unknown_type_names_the_nearest() -> None:
    with pytest.raises(NotFoundError) as caught:
        resolve_type("A1000", catalogue())
    assert caught.value.hint is not None
    assert "A10" in caught.value.hint


def test_the_catalogue_is_consistent() -> None:
    names: set[str] = set()
    for kind in catalogue().values():
        for name in (kind.name, *kind.aliases):
            assert name not in names
            names.add(name)
            assert resolve_type(name, catalogue()) is kind
    assert catalogue()["A100-80"].mig
    assert not catalogue()["L4"].mig
    assert all(kind.usd_per_hour is None for kind in catalogue().values())
