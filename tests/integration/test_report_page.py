"""The page as a reader sees it: drawn by a real Chromium, wide and narrow, light, dark and printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Problem
from planner.domain.verification import (
    SCHEMA_VERSION,
    DeviceVerification,
    ModelVerification,
    Verdict,
    Verification,
)
from planner.plan_files import plan_digest
from planner.report.fleet_map import standalone_svg
from planner.report.page import page
from tests.browser import DARK, LIGHT, brightness, inside, overlap
from tests.problems import GIB, devices, kind, model, option, problem

HOSTILE = "<script>document.title='taken'</script>"
NAMES = ("ranker", "text-embedding-multilingual-large-instruct-v2", "vgg19", HOSTILE)


def _example() -> tuple[Problem, Plan]:
    sizes = (30, 20, 8, 40)
    options = [
        option(name, "A100-80", id=name, memory_bytes=size * GIB, busy_ppm=(size * 10_000,))
        for name, size in zip(NAMES, sizes, strict=True)
    ]
    kinds = [kind("A100-80", memory_bytes=75 * GIB, server_base_bytes=2 * GIB)]
    subject = problem([model(name) for name in NAMES], options, kinds=kinds, fleet=devices("A100-80", 4))
    where = (0, 0, 0, 1)
    placements = [
        Placement(replica=f"{name}-1", option=name, device=f"A100-80/{place}")
        for name, place in zip(NAMES, where, strict=True)
    ]
    origin = Origin(status=Status.OPTIMAL, solver="cpsat", seed=0, runtime_s=0.5, bounds=[(2, "area")])
    return subject, derive_plan(subject, placements, origin)


def _verification(plan: Plan) -> Verification:
    models = tuple(
        ModelVerification(
            replica=f"{name}-1", model=name, rate_rps=1.0, completed=2500, failed=0, percentile=99, bound_ms=25.0,
            predicted_ms=20.0, expected_ms=19.0, measured_ms=18.0, measured_low_ms=17.0, measured_high_ms=None,
            error=0.11, expected_error=None, memory_bytes_predicted=GIB, memory_bytes_measured=GIB,
            busy_predicted=0.3, busy_measured=0.3, verdict=Verdict.UNCLEAR, reason="the bound lies within the interval",
        )
        for name in NAMES[:3]
    )  # fmt: skip
    device = DeviceVerification(
        device="A100-80/0", type="A100-80", period="all", seconds=42, memory_bytes_predicted=40 * GIB,
        memory_bytes_measured=38 * GIB, busy_predicted=0.4, busy_measured=0.37, models=models,
    )  # fmt: skip
    return Verification(
        schema_version=SCHEMA_VERSION, plan_digest=plan_digest(plan), rates="planned", load_generator="builtin",
        notes=(), devices=(device,),
    )  # fmt: skip


def _html() -> str:
    subject, plan = _example()
    return page(subject, plan, _verification(plan), ["gpu-memory: a violation"])


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out_of_the_page(seen: Callable[..., dict[str, Any]], width: int) -> None:
    assert seen(_html(), width)["width"] == width


@pytest.mark.parametrize("width", [400, 1200])
def test_no_text_of_the_map_covers_another_or_is_cut_off(seen: Callable[..., dict[str, Any]], width: int) -> None:
    pictures = seen(_html(), width)["pictures"]
    assert sum(len(picture["texts"]) for picture in pictures) > 20
    for picture in pictures:
        for text in picture["texts"]:
            assert inside(text, picture["own"])
        for place, text in enumerate(picture["texts"]):
            assert not any(overlap(text, other) for other in picture["texts"][:place])


def test_a_name_from_a_plan_is_text_and_nothing_else(seen: Callable[..., dict[str, Any]]) -> None:
    found = seen(_html(), 1200)
    assert found["title"] == "Plan: 4 models on 2 A100-80"
    assert HOSTILE in found["text"]


def test_every_part_is_drawn(seen: Callable[..., dict[str, Any]]) -> None:
    expected = ["Fleet", "How sure this is", "Objectives", "What binds", "Predicted beside measured", "Replicas"]
    assert [text for text in seen(_html(), 1200)["headings"] if "Do not deploy" not in text] == expected


def test_light_and_dark_follow_the_reader(seen: Callable[..., dict[str, Any]]) -> None:
    light, dark = (seen(_html(), 1200, scheme)["paper"] for scheme in (LIGHT, DARK))
    assert brightness(light) > 240
    assert brightness(dark) < 40


def test_it_prints(run: Callable[..., str], tmp_path: Path) -> None:
    source, target = tmp_path / "page.html", tmp_path / "page.pdf"
    subject, plan = _example()
    source.write_text(page(subject, plan, None, []), encoding="utf-8")
    run(DARK, f"--print-to-pdf={target}", "--no-pdf-header-footer", source.as_uri())
    assert target.read_bytes().startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", target.read_bytes())) in (1, 2)


def test_the_picture_alone_is_drawn_too(run: Callable[..., str], tmp_path: Path) -> None:
    subject, plan = _example()
    source, target = tmp_path / "map.svg", tmp_path / "map.png"
    source.write_text(standalone_svg(subject, plan), encoding="utf-8")
    run("--window-size=940,300", f"--screenshot={target}", source.as_uri())
    assert target.stat().st_size > 5000
