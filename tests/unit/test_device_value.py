"""The most valuable content of a device: each rule of a device limits it, and a limit of nodes ends the search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from planner.domain.candidates import NotSettled
from planner.domain.device_value import Found, most_valuable
from planner.domain.gpu_groups import gpu_groups
from planner.domain.problem import Device, DeviceKind, Model, Option, Problem
from planner.domain.room import room_of
from planner.errors import InputError
from tests.problems import devices, kind, model, option, problem, replicas_of_kinds

NODES = 100_000


def best(subject: Problem, values: Mapping[str, int], *, above: int = 0, **changes: object) -> Found:
    settings: dict[str, object] = {"node_limit": NODES, "first": False}
    room = room_of(subject, subject.kinds[0])
    return most_valuable(room, values, above=above, **(settings | changes))  # type: ignore[arg-type]


def world(options: Sequence[Option], device: DeviceKind | None = None, **changes: object) -> Problem:
    """A device of 12 bytes and a model for each option's model."""
    demand = (10_000_000,) * len(options[0].busy_ppm)
    models: list[Model] = [model(name, demand) for name in dict.fromkeys(o.model for o in options)]
    return problem(models, options, kinds=[device or kind()], **changes)  # type: ignore[arg-type]


def content(options: Sequence[Option], device: DeviceKind | None = None, **changes: object) -> list[str]:
    """The most valuable content where options are worth 10, 9, 8, … in their order."""
    values = {o.id: 10 - place for place, o in enumerate(options)}
    return sorted(best(world(options, device, **changes), values).content)


def test_memory_limits_a_content() -> None:
    assert content([option(name, memory_bytes=5) for name in "abc"]) == ["a@big", "b@big"]
    assert content([option(name, memory_bytes=4) for name in "abc"]) == ["a@big", "b@big", "c@big"]


def test_each_backend_pays_once() -> None:
    options = [option(name, memory_bytes=4, backend=backend) for name, backend in (("a", "x"), ("b", "y"), ("c", "x"))]
    overheads = {"x": 2, "y": 2}
    wanted = {11: ["a@big", "c@big"], 12: ["a@big", "b@big"], 16: ["a@big", "b@big", "c@big"]}
    for memory, names in wanted.items():
        assert content(options, kind(backend_overhead_bytes=overheads, memory_bytes=memory)) == names


def test_alone_a_replica_may_use_all_of_a_device() -> None:
    busy = [option("a", busy_ppm=(810_000,)), option("b", busy_ppm=(400_000,)), option("c", busy_ppm=(400_000,))]
    assert content(busy) == ["b@big", "c@big"]
    assert content(busy[:1]) == ["a@big"]


def test_every_period_is_kept() -> None:
    day, night = option("a", busy_ppm=(700_000, 100_000)), option("b", busy_ppm=(100_000, 700_000))
    both = option("c", busy_ppm=(100_000, 100_000))
    assert content([day, night, both], periods=("day", "night")) == ["a@big", "b@big"]


def test_the_least_tolerant_replica_limits_all() -> None:
    fragile, others = option("a", tolerance_ppm=150_000), [option(name) for name in "bc"]
    assert content([fragile, *others]) == ["a@big", "b@big"]
    assert content([replace(fragile, tolerance_ppm=PPM_OF_ALL), *others]) == ["a@big", "b@big", "c@big"]


PPM_OF_ALL = 1_000_000


def test_instances_beside_a_replica_are_limited() -> None:
    one, two = option("a", max_others=1), option("b", instances=2)
    assert content([one, two]) == ["a@big"]
    assert content([one, replace(two, instances=1)]) == ["a@big", "b@big"]


def test_classes_feel_each_other_by_their_weights() -> None:
    device = kind(interference_classes=("x", "y"), kappa_ppm=((1_000_000, 3_000_000), (0, 1_000_000)), calibrated=True)
    a, b = (option(name, interference_class=c, tolerance_ppm=200_000) for name, c in (("a", 0), ("b", 1)))
    assert content([a, b], device) == ["a@big"]
    assert content([a, replace(b, interference_class=0)], device) == ["a@big", "b@big"]


def test_a_model_stands_once_on_a_device_in_whatever_option() -> None:
    options = [option("a", id="a1"), option("a", id="a2"), option("b")]
    assert content(options) == ["a1", "b@big"]
    assert content(options, max_per_device=2) == ["a1", "a1", "b@big"]


def test_no_more_replicas_than_a_model_may_have_are_counted() -> None:
    subject = problem([model(demand_mrps=9000, replicas_max=2)], [option(memory_bytes=2)], max_per_device=None)
    assert best(subject, {"m@big": 7}).value == 14


def test_no_more_replicas_than_are_of_use_are_counted() -> None:
    subject = problem([model(demand_mrps=2001)], [option(memory_bytes=2)], max_per_device=None)
    assert best(subject, {"m@big": 7}).value == 21
    subject = problem([model(replicas_min=2)], [option(memory_bytes=2)], max_per_device=None)
    assert best(subject, {"m@big": 7}).value == 14


def test_models_alike_are_counted_as_one_and_named_one_by_one() -> None:
    subject = world([option(name, memory_bytes=3) for name in "abcdef"])
    assert best(subject, dict.fromkeys((f"{name}@big" for name in "abcdef"), 5)).content == (
        "a@big", "b@big", "c@big", "d@big",
    )  # fmt: skip


def test_what_fits_nowhere_is_worth_nothing() -> None:
    subject = world([option("a", memory_bytes=13), option("b")])
    assert best(subject, {"a@big": 100, "b@big": 1}) == Found(value=1, content=("b@big",), nodes=0)
    assert best(subject, {"a@big": 100, "b@big": -1}).content == ()


def test_a_search_says_when_its_nodes_were_not_enough() -> None:
    subject = replicas_of_kinds("hard", 60, 30)
    values = {o.id: o.memory_bytes + o.busy_ppm[0] * 80_000 for o in subject.options}
    found = best(subject, values)
    assert best(subject, values, above=found.value).content == ()
    assert best(subject, values, above=found.value - 1, first=True).value == found.value
    with pytest.raises(NotSettled, match="a search of 10 nodes did not settle what one gpu can carry"):
        best(subject, values, node_limit=10)


def test_very_many_replicas_are_not_settled() -> None:
    options = [option(name, memory_bytes=size, busy_ppm=(0,)) for name, size in (("a", 2), ("b", 3))]
    subject = world(options, kind(memory_bytes=10_001), max_per_device=None)
    with pytest.raises(NotSettled, match="too many replicas fit on one big"):
        best(subject, {"a@big": 2_000_001, "b@big": 3_000_001}, above=1)


def test_huge_duals_are_only_numbers() -> None:
    subject = world([option(name, memory_bytes=5) for name in "abc"])
    huge = 10**400
    assert best(subject, dict.fromkeys(("a@big", "b@big", "c@big"), huge)).value == 2 * huge
    assert best(subject, dict.fromkeys(("a@big", "b@big", "c@big"), 1), above=huge).content == ()


def test_gpus_alike_form_a_group() -> None:
    kinds = [kind("half"), kind("quarter", cost_microusd_per_hour=None)]
    slices = [Device(id=f"g/{i}", gpu="g", kind=name) for i, name in enumerate(("quarter", "half", "quarter"))]
    fleet = [*slices, *devices("half", 2), Device(id="x", gpu="x", kind="half", cordoned=True)]
    mixed, whole = gpu_groups(problem(kinds=kinds, fleet=fleet, options=[]))
    assert (mixed.name, mixed.kinds, mixed.gpus, mixed.count, mixed.cost) == (
        "half+quarter+quarter", ("half", "quarter", "quarter"), ("g",), 1, 0,
    )  # fmt: skip
    assert (whole.name, whole.gpus, whole.cost) == ("half", ("half/0", "half/1"), 1_000_000)
    alike = [kind("a"), kind("a+a")]
    pair = [Device(id=f"g/{i}", gpu="g", kind="a") for i in range(2)]
    with pytest.raises(InputError, match="two groups of GPUs bear one name"):
        gpu_groups(problem(kinds=alike, fleet=[*pair, *devices("a+a")], options=[]))
