"""The part of a page that puts what was predicted beside what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from planner.domain.units import format_bytes
from planner.domain.verification import DeviceVerification, ModelVerification, Verdict, Verification
from planner.report.markup import Column, Group, Html, bullets, element, html, joined, number, section, table
from planner.report.markup import share as percent
from planner.verify_table import summary

NOTES_SHOWN = 30
STRIP_WIDTH = 150
STRIP_HEIGHT = 16
BOUND_AT = 0.7
SIGNS = {Verdict.MET: "✓", Verdict.MISSED: "✗", Verdict.UNCLEAR: "?"}
CSS = {Verdict.MET: "good", Verdict.MISSED: "bad", Verdict.UNCLEAR: "warn"}

LATENCY = (
    Column("replica", number=False),
    Column("req/s"),
    Column("bound"),
    Column("predicted"),
    Column("measured"),
    Column("95% interval"),
    Column("error"),
    Column("", number=False),
    Column("verdict", number=False),
)
USAGE = (
    Column("device, replica", number=False),
    Column("memory predicted"),
    Column("measured"),
    Column("busy predicted"),
    Column("measured"),
)


def verified(found: Verification) -> Html:
    key = (
        "Latencies in ms. In the strip: grey bar the measured interval, dot the measured value, blue line what was "
        "predicted, red dashes the bound. Error is predicted against measured; above zero the prediction was safe."
    )
    more = "rows in verification.json"
    heading, source = "Predicted beside measured", f"Load by {found.load_generator}"
    if found.simulated:
        heading, source = "Predicted beside simulated", "No server ran: what is called measured here is simulated"
    return section(
        heading,
        element("p", f"{summary(found)}. {source}."),
        *(_failure(device) for device in found.devices if device.failure is not None),
        table("Latency, predicted and measured", LATENCY, [_latency(device) for device in found.devices], more),
        element("p", key, "small"),
        *_reasons(found),
        table("Memory and busy time", USAGE, [Group("", list(_usage(found)))], more),
        *_notes(found),
    )


def _failure(device: DeviceVerification) -> Html:
    assert device.failure is not None
    title = element("h2", f"The server of {device.device} failed")
    return element(
        "div", joined([title, element("p", device.failure.message), element("pre", device.failure.log_tail)]), "alarm"
    )


def _latency(device: DeviceVerification) -> Group:
    period = f"{device.type} · period {device.period} · {device.seconds:g} s"
    heading = joined([device.device, element("small", period)])
    return Group(heading, [_latency_row(model) for model in device.models])


def _latency_row(model: ModelVerification) -> tuple[str, ...]:
    return (
        model.replica,
        number(model.rate_rps),
        number(model.bound_ms),
        number(model.predicted_ms),
        "-" if model.measured_ms is None else f"p{model.percentile} {number(model.measured_ms)}",
        _interval(model.measured_low_ms, model.measured_high_ms),
        "-" if model.error is None else f"{model.error:+.0%}",
        _strip(model),
        _verdict(model.verdict),
    )


def _interval(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{number(low)} to {number(high)}"
    return f"above {number(low)}" if low is not None else f"below {number(high)}" if high is not None else "-"


def _verdict(verdict: Verdict | None) -> Html:
    if verdict is None:
        return html("-")
    return element("strong", f"{SIGNS[verdict]} {verdict.value}", CSS[verdict])


def _strip(model: ModelVerification) -> Html:
    """The bound stands at the same place in every row; what lies far above it ends at the right edge."""
    known = [model.predicted_ms, model.measured_ms, model.measured_high_ms]
    largest = model.bound_ms or max((value for value in known if value is not None), default=0)
    if not largest or model.measured_ms is None:
        return Html("")

    def x(value: float) -> float:
        return min(STRIP_WIDTH - 3, value / largest * BOUND_AT * STRIP_WIDTH)

    low, high = (
        x(model.measured_low_ms or 0),
        STRIP_WIDTH if model.measured_high_ms is None else x(model.measured_high_ms),
    )
    parts = [
        f'<rect class="track" y="6" width="{STRIP_WIDTH}" height="4" rx="2"/>',
        f'<rect class="span" x="{low:.1f}" y="4" width="{max(2, high - low):.1f}" height="8" rx="2"/>',
        f'<circle class="measured" cx="{x(model.measured_ms):.1f}" cy="8" r="3"/>',
    ]
    if model.predicted_ms is not None:
        parts.append(_line("predicted", x(model.predicted_ms)))
    if model.bound_ms is not None:
        parts.append(_line("bound", x(model.bound_ms)))
    size = f'width="{STRIP_WIDTH}" height="{STRIP_HEIGHT}" viewBox="0 0 {STRIP_WIDTH} {STRIP_HEIGHT}"'
    return Html(f'<svg class="strip" aria-hidden="true" {size}>{"".join(parts)}</svg>')


def _line(css: str, x: float) -> str:
    return f'<line class="{css}" x1="{x:.1f}" x2="{x:.1f}" y1="1" y2="{STRIP_HEIGHT - 1}"/>'


def _reasons(found: Verification) -> Iterator[Html]:
    reasons = [f"{model.replica}: {model.reason}" for model in found.models() if model.reason]
    if reasons:
        yield bullets(reasons, NOTES_SHOWN, "in verification.json")


def _usage(found: Verification) -> Iterator[tuple[str, ...]]:
    for device in found.devices:
        yield _usage_row(element("strong", device.device), device)
        for model in device.models:
            if model.memory_bytes_measured is not None or model.busy_measured is not None:
                yield _usage_row(model.replica, model)


def _usage_row(name: str, of: DeviceVerification | ModelVerification) -> tuple[str, ...]:
    predicted, measured = of.memory_bytes_predicted, of.memory_bytes_measured
    error = f" ({(predicted - measured) / measured:+.0%})" if measured else ""
    return (
        name,
        format_bytes(predicted),
        "not measured" if measured is None else format_bytes(measured) + error,
        percent(of.busy_predicted),
        "not measured" if of.busy_measured is None else percent(of.busy_measured),
    )


def _notes(found: Verification) -> Iterator[Html]:
    if found.notes:
        yield bullets(found.notes, NOTES_SHOWN, "in verification.json")
