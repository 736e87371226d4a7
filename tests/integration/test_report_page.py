"""The page as a reader sees it: drawn by a real Chromium, wide and narrow, light, dark and printed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from html import unescape
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
from tests.problems import GIB, devices, kind, model, option, problem

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
HOSTILE = "<script>document.title='taken'</script>"
NAMES = ("ranker", "text-embedding-multilingual-large-instruct-v2", "vgg19", HOSTILE)

# The page forbids every script in it, so it is measured from the outside, in a frame of the width that is tested.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:900px">
</iframe><pre id="found"></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const box = node => {{ const r = node.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; }};
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title, width: root.scrollWidth, paper: getComputedStyle(page.body).backgroundColor,
    text: page.body.innerText, headings: [...page.querySelectorAll("h2")].map(h => h.textContent),
    pictures: [...page.querySelectorAll("svg.fleet")].map(svg => ({{
      own: box(svg), texts: [...svg.querySelectorAll("text")].map(box) }})),
  }});
}};
</script>"""


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed; apt-get install -y chromium")
    return found


@pytest.fixture
def run(browser: str, tmp_path: Path) -> Callable[..., str]:
    def run_browser(*arguments: str) -> str:
        # Without a sandbox, so that it also starts as root and in a container; the page is our own.
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'browser'}", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run_browser


@pytest.fixture
def seen(run: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What a reader sees of a page at a width: its text and colours, and where each piece of its map stands."""

    def look(html: str, width: int, scheme: str = LIGHT) -> dict[str, Any]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.format(width=width), encoding="utf-8")
        dom = run(scheme, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
        found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
        assert found is not None
        read: dict[str, Any] = json.loads(unescape(found[1]))
        return read

    return look


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
            assert _inside(text, picture["own"])
        for place, text in enumerate(picture["texts"]):
            assert not any(_overlap(text, other) for other in picture["texts"][:place])


def test_a_name_from_a_plan_is_text_and_nothing_else(seen: Callable[..., dict[str, Any]]) -> None:
    found = seen(_html(), 1200)
    assert found["title"] == "Plan: 4 models on 2 A100-80"
    assert HOSTILE in found["text"]


def test_every_part_is_drawn(seen: Callable[..., dict[str, Any]]) -> None:
    expected = ["Fleet", "How sure this is", "Objectives", "What binds", "Predicted beside measured", "Replicas"]
    assert [text for text in seen(_html(), 1200)["headings"] if "Do not deploy" not in text] == expected


def test_light_and_dark_follow_the_reader(seen: Callable[..., dict[str, Any]]) -> None:
    light, dark = (seen(_html(), 1200, scheme)["paper"] for scheme in (LIGHT, DARK))
    assert _brightness(light) > 240
    assert _brightness(dark) < 40


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


def _inside(inner: Sequence[float], outer: Sequence[float]) -> bool:
    left, right, top, bottom = inner
    return left >= outer[0] - 1 and right <= outer[1] + 1 and top >= outer[2] - 1 and bottom <= outer[3] + 1


def _overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Of more than the two pixels by which the boxes of two lines of text may touch."""
    return min(one[1], other[1]) - max(one[0], other[0]) > 2 and min(one[3], other[3]) - max(one[2], other[2]) > 2


def _brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
