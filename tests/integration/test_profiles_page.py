"""The page of profiles as a reader sees it: drawn by a real Chromium, wide and narrow, light, dark and printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_data import shared_file

from planner.domain.profile import Measurement, ProfileRow
from planner.domain.serving import LoadMode
from planner.inputs.model_analyzer import read_checkpoint
from planner.inputs.profile_files import as_measurements
from planner.profile_views.ranking import LatencyBound
from planner.report.profiles_page import profiles_page
from tests.browser import DARK, LIGHT, brightness, inside, overlap

HOSTILE = "<script>document.title='taken'</script>"
PARTS = {"queue_ms": 1.0, "compute_input_ms": 0.2, "compute_infer_ms": 3.0, "compute_output_ms": 0.1}


def _measurements() -> Iterator[Measurement]:
    """A model in six configurations with all there is to tell, one with nothing, and one that failed."""
    yield Measurement(key="@", row=ProfileRow(model="@server", device="L4", memory_bytes=500_000_000))
    for instances in (1, 2, 3):
        for batch in (1, 8):
            for load in (1, 2, 4, 64):
                rate = 90.0 * min(load, instances + batch) + instances
                row = ProfileRow(
                    model="ranker", device="L4", instances=instances, max_batch_size=batch, concurrency=load,
                    rate_rps=rate, latency_mean_ms=5.0 * load, latency_p99_ms=8.0 * load, busy=0.5, power_watts=60.0,
                    memory_bytes=instances * (200_000_000 + batch * 10_000_000), stable=load < 64,
                    load_generator="builtin",
                )  # fmt: skip
                yield Measurement(key=f"{instances}{batch}{load}", row=row, statistics=PARTS)
    bare = ProfileRow(model=HOSTILE, device="L4", load=LoadMode.OPEN, rate_rps=5.0, offered_rps=5.0)
    yield Measurement(key="bare", row=bare)
    yield Measurement(key="failed", row=ProfileRow(model="broken", device="L4"), failure="out of memory\ntrace")


def _html(**options: Any) -> str:
    return profiles_page(_measurements(), **options)


Seen = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("width", [400, 1200])
def test_nothing_sticks_out_of_the_page(seen: Seen, width: int) -> None:
    assert seen(_html(), width)["width"] == width


def test_no_text_of_a_chart_covers_another_or_is_cut_off(seen: Seen) -> None:
    pictures = seen(_html(bounds={"ranker": LatencyBound(99, 20)}), 1200)["pictures"]
    assert len(pictures) == 4  # all models; and of ranker latency, memory and where time goes
    for picture in pictures:
        for place, text in enumerate(picture["texts"]):
            assert inside(text, picture["own"])
            assert not any(overlap(text, other) for other in picture["texts"][:place])


def test_every_part_is_drawn_and_told(seen: Seen) -> None:
    found = seen(_html(usd_per_hour={"L4": 0.72}), 1200)
    assert found["title"] == "Profiles: 3 models on L4"
    headings = ["Recommended configurations", "All models", "How sure this is"]
    assert found["headings"] == [*headings, f"{HOSTILE} on L4", "broken on L4", "ranker on L4"]
    text = found["text"]
    assert "No configuration to recommend for broken on L4" in text
    assert "Every point failed." in text
    assert "out of memory" in text
    assert "trace" not in text
    assert "The records do not have Triton's times of all four parts." in text
    assert f"Energy is not known of {HOSTILE} on L4" in text
    assert "6 of 24 points unstable" in text


def test_recommended_and_why(seen: Seen) -> None:
    text = seen(_html(), 1200)["text"]
    best = "Recommended: 1 x 8 serves 361 inferences/s with 267.0 MiB of hot memory."
    assert f"{best} That is 99% of the fastest, 3 x 1 with 363 inferences/s, which takes 333.8 MiB more." in text
    bound = {"ranker": LatencyBound(99, 7)}
    text = seen(_html(bounds=bound), 1200)["text"]
    assert "No configuration keeps p99 7 ms: 8 ms at best (1 x 1, concurrency 1)." in text
    assert "concurrency 64" in text  # its pictures and figures are shown all the same


def test_every_picture_is_described_in_words() -> None:
    html = _html()
    described = re.findall(r'<svg class="chart" role="img" aria-label="([^"]+)"', html)
    assert len(described) == html.count('<svg class="chart"') == 4
    assert any("1 x 8: 91/s at 8 ms; 181/s at 16 ms; 361/s at 32 ms." in words for words in described)
    assert any("max batch 8: 1 instance 267.0 MiB, 2 instances 534.1 MiB" in words for words in described)
    assert any("concurrency 1: queue 1 ms, compute input 0.2 ms, compute infer 3 ms" in words for words in described)


def test_light_and_dark_follow_the_reader(seen: Seen) -> None:
    light, dark = (seen(_html(), 1200, scheme)["paper"] for scheme in (LIGHT, DARK))
    assert brightness(light) > 240
    assert brightness(dark) < 40


def test_it_prints(run: Callable[..., str], tmp_path: Path) -> None:
    source, target = tmp_path / "page.html", tmp_path / "page.pdf"
    source.write_text(_html(), encoding="utf-8")
    run(DARK, f"--print-to-pdf={target}", "--no-pdf-header-footer", source.as_uri())
    assert len(re.findall(rb"/Type\s*/Page\b", target.read_bytes())) in range(2, 6)


@pytest.mark.parametrize("width", [400, 1200])
def test_a_thousand_points_of_a_real_sweep(seen: Seen, width: int) -> None:
    found = read_checkpoint(shared_file("model_analyzer/resnet50_libtorch/0.ckpt"))
    measurements = as_measurements(found.points, origin="0.ckpt", imported_at="now")
    bounds = {model: LatencyBound(99, 50) for model in ("resnet50_libtorch", "vgg19_libtorch")}
    page = seen(profiles_page(measurements, bounds=bounds, usd_per_hour={"TITAN-RTX": 0.6}), width)
    assert page["width"] == width
    assert "Recommended: 3 x 1 serves 314 inferences/s within p99 50 ms with 473.7 MiB of hot memory." in page["text"]
    assert "90 configurations at 1,012 load points." in page["text"]
    assert sum(len(picture["texts"]) for picture in page["pictures"]) > 100
