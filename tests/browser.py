"""What a real Chromium shows of a page, as tests ask for it."""

from __future__ import annotations

import re
from collections.abc import Sequence

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"

# The page forbids every script in it, so it is measured from the outside, in a frame of the width that is tested.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe src="page.html" style="border:0;width:{width}px;height:900px">
</iframe><pre id="found"></pre><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const box = node => {{ const r = node.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; }};
  document.getElementById("found").textContent = JSON.stringify({{
    title: page.title, width: root.scrollWidth, paper: getComputedStyle(page.body).backgroundColor,
    text: page.body.innerText, headings: [...page.querySelectorAll("h2")].map(h => h.textContent),
    pictures: [...page.querySelectorAll("svg.fleet, svg.chart")].map(svg => ({{
      own: box(svg), texts: [...svg.querySelectorAll("text")].map(box) }})),
  }});
}};
</script>"""


def inside(inner: Sequence[float], outer: Sequence[float]) -> bool:
    left, right, top, bottom = inner
    return left >= outer[0] - 1 and right <= outer[1] + 1 and top >= outer[2] - 1 and bottom <= outer[3] + 1


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Of more than the two pixels by which the boxes of two lines of text may touch."""
    return min(one[1], other[1]) - max(one[0], other[0]) > 2 and min(one[3], other[3]) - max(one[2], other[2]) > 2


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
