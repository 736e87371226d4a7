"""Which cores servers and load generators get."""

from __future__ import annotations

import pytest

from planner.errors import InputError, SetupError
from planner.workflow.cores import CoreShare, parse_cores, share_cores


@pytest.mark.parametrize(
    ("text", "cores"),
    [("0", (0,)), ("0,2-3", (0, 2, 3)), (" 1 , 0 ", (1, 0)), ("2-2", (2,)), ("0-2,1,4", (0, 1, 2, 4))],
)
def test_lists_of_cores(text: str, cores: tuple[int, ...]) -> None:
    assert parse_cores(text) == cores


@pytest.mark.parametrize("text", ["", "a", "1,", "3-1", "-1", "1;2", "0-"])
def test_what_is_no_list_of_cores_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="write for example 0 or 0,2-3"):
        parse_cores(text)


def test_devices_run_together_where_they_and_the_generator_have_distinct_cores() -> None:
    shares = share_cores({"n/0": 1, "n/1": 2}, usable=[0, 1, 2, 5, 7], wanted=[])
    assert shares.waves == (("n/0", "n/1"),)
    assert shares.by_device == {"n/0": CoreShare((0,), (5, 7)), "n/1": CoreShare((1, 2), (5, 7))}
    assert shares.notes == ()


def test_wanted_cores_are_for_the_devices_in_their_order() -> None:
    shares = share_cores({"n/0": 1, "n/1": 1}, usable=[0, 1, 2, 3], wanted=[3, 1])
    assert shares.by_device == {"n/0": CoreShare((3,), (0, 2)), "n/1": CoreShare((1,), (0, 2))}


def test_a_wanted_core_that_no_device_needs_goes_to_the_generator() -> None:
    assert share_cores({"n/0": 1}, usable=[0, 1], wanted=[1, 0]).by_device == {"n/0": CoreShare((1,), (0,))}


@pytest.mark.parametrize(("usable", "wanted"), [([0, 1], []), ([0, 1, 2], [0]), ([4, 5], [5])])
def test_devices_run_one_after_another_where_cores_are_short(usable: list[int], wanted: list[int]) -> None:
    shares = share_cores({"n/0": 1, "n/1": 1}, usable, wanted)
    assert shares.waves == (("n/0",), ("n/1",))
    own = (wanted or usable)[0]
    rest = tuple(core for core in usable if core != own)
    assert set(shares.by_device.values()) == {CoreShare((own,), rest)}
    assert shares.notes == (
        "devices and load generator do not fit on distinct cores: the devices ran one after another",
    )


def test_a_generator_without_a_core_of_its_own_is_noted() -> None:
    shares = share_cores({"n/0": 2}, usable=[0, 1], wanted=[])
    assert shares.by_device == {"n/0": CoreShare((0, 1), (0, 1))}
    assert shares.waves == (("n/0",),)
    assert shares.notes == ("n/0: no core was left for the load generator, which took time from the server",)


def test_gpus_run_one_after_another_each_with_the_whole_generator() -> None:
    shares = share_cores({"n/0": None, "n/1": None}, usable=[0, 1, 2], wanted=[])
    assert shares.waves == (("n/0",), ("n/1",))
    assert set(shares.by_device.values()) == {CoreShare(None, (0, 1, 2))}
    assert shares.notes == ("devices ran one after another, so that the load generator was each GPU's alone",)


def test_gpus_and_cpu_devices_of_a_plan_run_one_after_another() -> None:
    shares = share_cores({"n/0": None, "n/1": 1}, usable=[0, 1, 2], wanted=[])
    assert shares.by_device == {"n/0": CoreShare(None, (0, 1, 2)), "n/1": CoreShare((0,), (1, 2))}
    assert shares.waves == (("n/0",), ("n/1",))


def test_nothing_to_run_takes_nothing() -> None:
    shares = share_cores({}, usable=[0], wanted=[])
    assert (shares.by_device, shares.waves, shares.notes) == ({}, (), ())


def test_a_core_that_we_may_not_use_is_named() -> None:
    with pytest.raises(InputError, match="core 9 is not among the cores 0, 1 that we may use"):
        share_cores({"n/0": 1}, usable=[0, 1], wanted=[0, 9])


@pytest.mark.parametrize(("usable", "wanted"), [([0, 1], []), ([0, 1, 2, 3], [2, 3])])
def test_a_device_larger_than_what_there_is_is_named(usable: list[int], wanted: list[int]) -> None:
    with pytest.raises(SetupError, match="n/1 needs 4 cores, there are 2") as caught:
        share_cores({"n/0": 1, "n/1": 4}, usable, wanted)
    assert caught.value.exit_code == 2
