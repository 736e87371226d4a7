"""A verification as text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from planner.domain.units import format_bytes
from planner.domain.verification import DeviceVerification, ModelVerification, Verdict, Verification

WIDTH = 80
LOG_LINES = 5
_MODEL_WIDTH = 19
_LEAST_MODEL_WIDTH = 8
_COLUMNS = ("model", "req/s", "bound", "predicted", "measured", "interval", "error", "verdict")


def verification_table(found: Verification) -> str:
    """Latencies in milliseconds; "expected" and all other figures are in verification.json."""
    lines = [*_wrapped(summary(found)), ""]
    for device in found.devices:
        lines += [*_device(device), ""]
    for note in found.notes:
        lines += _wrapped(f"note: {note}")
    return "\n".join(lines).rstrip("\n")


def summary(found: Verification) -> str:
    counts = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in Verdict)
    without = found.count(None)
    failed = sum(device.failure is not None for device in found.devices)
    text = f"{_rates(found.rates)}: {counts}" + (f", {without} without objective" if without else "")
    text += f"; {failed} of {len(found.devices)} servers failed" if failed else ""
    return text + ("; interrupted, the other devices were not verified" if found.interrupted else "")


def _rates(rates: str) -> str:
    return {"planned": "At planned rates", "full": "At full capacity"}.get(rates, f"At {rates} x planned rates")


def _device(device: DeviceVerification) -> Iterator[str]:
    head = f"{device.device} ({device.type}), period {device.period}, {device.seconds:g} s, latencies in ms"
    yield from _wrapped(head)
    yield from _aligned([_COLUMNS, *(_row(model) for model in device.models)])
    for model in device.models:
        if model.reason:
            yield from _wrapped(f"{_short(model.model, _MODEL_WIDTH)}: {model.reason}", "  ")
    if device.failure is not None:
        yield from _wrapped(f"FAILED: {device.failure.message}", "  ")
        for line in device.failure.log_tail.splitlines()[-LOG_LINES:]:
            yield from _wrapped(line, "  | ")
        return
    yield f"  memory  {_memory(device.memory_bytes_predicted, device.memory_bytes_measured)}"
    yield f"  busy    {_busy(device.busy_predicted, device.busy_measured)}"


def _row(model: ModelVerification) -> tuple[str, ...]:
    low, high = model.measured_low_ms, model.measured_high_ms
    return (
        model.model,
        f"{model.rate_rps:.4g}" if model.rate_rps < 1000 else f"{model.rate_rps:,.0f}",
        "-" if model.bound_ms is None else f"{model.bound_ms:g}",
        _ms(model.predicted_ms),
        "-" if model.measured_ms is None else f"p{model.percentile} {_ms(model.measured_ms)}",
        "-" if low is None and high is None else f"{_ms(low)}..{_ms(high)}",
        "-" if model.error is None else f"{model.error:+.0%}",
        model.verdict or "-",
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Names give way where the figures need the room."""
    _, *widths = (max(len(row[column]) for row in rows) for column in range(len(_COLUMNS)))
    room = WIDTH - len("  ") - sum(widths) - len(widths)
    longest = max(len(row[0]) for row in rows)
    first = min(longest, _MODEL_WIDTH, max(room, _LEAST_MODEL_WIDTH))
    for name, *cells in rows:
        figures = [cell.rjust(width) for cell, width in zip(cells[:-1], widths[:-1], strict=True)]
        yield "  " + " ".join([_short(name, first).ljust(first), *figures, cells[-1]]).rstrip()


def _memory(predicted: int, measured: int | None) -> str:
    if measured is None:
        return f"predicted {format_bytes(predicted)}, not measured"
    error = (predicted - measured) / measured if measured else 0.0
    return f"predicted {format_bytes(predicted)}, measured {format_bytes(measured)} ({error:+.0%})"


def _busy(predicted: float, measured: float | None) -> str:
    if measured is None:
        return f"predicted {predicted:.1%}, not measured"
    return f"predicted {predicted:.1%}, measured {measured:.1%}"


def _short(name: str, width: int) -> str:
    """Beginning and end: models often differ in their last letters."""
    return name if len(name) <= width else name[: width - 7] + "…" + name[-6:]


def _wrapped(text: str, indent: str = "") -> list[str]:
    more = indent if indent.strip() else indent + "  "
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=more, break_on_hyphens=False)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"
