from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Problem
from planner.errors import InputError
from planner.report.fleet_map import BAR_WIDTH, WIDTH, inline_svg, standalone_svg
from planner.report.fleet_rows import ROWS_SHOWN, SlicePlace, fleet_rows
from planner.report.palette import OTHER, model_classes, variables
from tests.mig_problems import free_gpu, slice_kind
from tests.problems import devices, kind, model, option, problem

SVG = "{http://www.w3.org/2000/svg}"


def _packed(count: int, models: int = 1, **gpu: object) -> tuple[Problem, Plan]:
    """`count` devices with one replica each, of the models in turn, and two devices more."""
    names = [f"model-{i}" for i in range(models)]
    subject = problem(
        [model(name) for name in names],
        [option(name, memory_bytes=4 + (i % 2)) for i, name in enumerate(names)],
        kinds=[kind(**gpu)],  # type: ignore[arg-type]
        fleet=devices(count=count + 2),
    )
    placements = [
        Placement(replica=f"r{i}", option=f"{names[i % models]}@big", device=f"big/{i}") for i in range(count)
    ]
    origin = Origin(status=Status.FEASIBLE, solver="greedy", seed=0, runtime_s=0.0, bounds=[(None, "none")])
    return subject, derive_plan(subject, placements, origin)


def _texts(svg: str) -> Iterator[str]:
    for found in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        yield found.text or ""


def test_a_row_per_device_and_what_is_unused() -> None:
    subject, plan = _packed(3)
    texts = list(_texts(standalone_svg(subject, plan)))
    assert [t for t in texts if t.startswith("big/")] == ["big/0", "big/1", "big/2"]
    assert "Unused: 2 x big" in texts


def test_many_devices_of_one_content_share_a_row() -> None:
    subject, plan = _packed(ROWS_SHOWN + 5, models=2)
    rows = fleet_rows(subject, plan).rows
    assert [(row.label, row.count) for row in rows] == [("23 x big", 23), ("22 x big", 22)]
    assert rows[0].detail == "big/0 + 22 more"


def test_what_has_no_row_is_counted() -> None:
    subject, plan = _packed(ROWS_SHOWN + 5, models=ROWS_SHOWN + 3)
    fleet = fleet_rows(subject, plan)
    assert len(fleet.rows) == ROWS_SHOWN
    assert sum(row.count for row in fleet.rows) + fleet.hidden_devices == ROWS_SHOWN + 5
    assert f"{fleet.hidden_devices} more devices" in standalone_svg(subject, plan)


def test_only_the_largest_models_have_a_colour_of_their_own() -> None:
    subject, plan = _packed(10, models=10)
    classes = model_classes(plan)
    assert sorted(classes.values()) == [*(f"hue{i}" for i in range(8)), OTHER, OTHER]
    assert "2 other models" in list(_texts(standalone_svg(subject, plan)))


def test_a_device_that_is_too_full_is_cut_at_the_end_of_its_bar() -> None:
    subject, plan = _packed(1, memory_bytes=3)
    svg = standalone_svg(subject, plan)
    bars = [float(r.get("width", "0")) for r in ElementTree.fromstring(svg).iter(f"{SVG}rect") if r.get("rx") == "2"]
    assert max(bars) <= BAR_WIDTH
    assert 'class="figure over"' in svg


def test_names_are_escaped() -> None:
    name = "<b>&\"'"
    subject = problem([model(name)], [option(name, id="o")])
    origin = Origin(status=Status.OPTIMAL, solver="greedy", seed=0, runtime_s=0.0, bounds=[(1, "area")])
    plan = derive_plan(subject, [Placement(replica="r", option="o", device="big/0")], origin)
    assert name in list(_texts(standalone_svg(subject, plan)))
    ElementTree.fromstring(inline_svg(subject, plan))


def test_a_long_numbered_name_keeps_its_number() -> None:
    name = "a-model-of-a-long-name-that-fits-in-no-bar-of-any-map-of-a-fleet-17"
    subject = problem([model(name)], [option(name, id="o")])
    origin = Origin(status=Status.OPTIMAL, solver="greedy", seed=0, runtime_s=0.0, bounds=[(1, "area")])
    plan = derive_plan(subject, [Placement(replica="r", option="o", device="big/0")], origin)
    shown = [text for text in _texts(standalone_svg(subject, plan)) if "…" in text]
    assert shown
    assert all(text.endswith("-17") for text in shown)


def test_the_picture_alone_needs_nothing_else() -> None:
    subject, plan = _packed(2)
    root = ElementTree.fromstring(standalone_svg(subject, plan))
    assert root.get("width") == str(WIDTH)
    style = root.findtext(f"{SVG}style") or ""
    assert "prefers-color-scheme:dark" in style
    assert set(re.findall(r"var\((--[a-z0-9-]+)\)", style)) <= set(re.findall(r"(--[a-z0-9-]+):", style))


def test_a_plan_of_another_problem_is_not_drawn() -> None:
    subject, plan = _packed(1)
    moved = replace(plan, replicas=(replace(plan.replicas[0], devices=("elsewhere/0",)),))
    with pytest.raises(InputError, match="stands on 'elsewhere/0', which the fleet does not have"):
        standalone_svg(subject, moved)


def test_every_text_of_the_palette_can_be_read() -> None:
    """WCAG 2 asks for a contrast of 4.5 : 1 for text of this size."""
    for block in re.findall(r":root\{(--[^}]*)\}", variables(":root")):
        colours = dict(part.split(":") for part in block.split(";"))
        pairs = [(ink, ink.removesuffix("-ink")) for ink in colours if ink.endswith("-ink") and ink != "--ink"]
        pairs += [(ink, "--paper") for ink in ("--ink", "--ink2", "--ink3", "--good", "--warn", "--bad")]
        for text, ground in pairs:
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_slice_shows_which_memory_slices_it_takes() -> None:
    names = ("1g", "2g")
    subject = problem(
        [model("a"), model("b"), model("c")],
        [option("a", "split/1g"), option("b", "split/2g"), option("c", "split")],
        kinds=[kind("split"), *(slice_kind(name) for name in names)],
        fleet=[*free_gpu(0, names), *free_gpu(1, names)],
    )
    where = {"a@split/1g": "split/0/1g@2", "b@split/2g": "split/0/2g@0", "c@split": "split/1"}
    placements = [Placement(replica=f"r{i}", option=o, device=d) for i, (o, d) in enumerate(where.items())]
    origin = Origin(status=Status.FEASIBLE, solver="greedy", seed=0, runtime_s=0.0, bounds=[(None, "none")])
    plan = derive_plan(subject, placements, origin)
    rows = fleet_rows(subject, plan).rows
    assert [row.label for row in rows] == ["split/0/2g@0", "split/0/1g@2", "split/1"]
    assert [row.place for row in rows] == [SlicePlace(0, 2, 4), SlicePlace(2, 1, 4), None]
    svg = standalone_svg(subject, plan)
    assert "<title>memory slices 0 to 1 of 0 to 3</title>" in svg
    assert "<title>memory slice 2 of 0 to 3</title>" in svg
