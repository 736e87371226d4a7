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
_MEASURED = 4
_COLUMNS = ("model", "req/s", "bound", "predicted", "measured", "interval", "error", "verdict")
_MORE = ("model", "p50", "p95", "p99", "served/s", "batch", "within bound")
# A simulated fleet has hundreds of devices: of more than this, those that keep every bound are counted.
_DEVICES_SHOWN = 12


def verification_table(found: Verification) -> str:
    """Latencies in milliseconds; "expected" and all other figures are in verification.json."""
    lines = [*_wrapped(summary(found)), ""]
    shown = _shown(found)
    for device in shown:
        lines += [*_device(device, found.simulated), ""]
    if len(shown) < len(found.devices):
        lines += [f"{len(found.devices) - len(shown)} more devices keep every bound", ""]
    for note in found.notes:
        lines += _wrapped(f"note: {note}")
    return "\n".join(lines).rstrip("\n")


def _shown(found: Verification) -> Sequence[DeviceVerification]:
    if not found.simulated or len(found.devices) <= _DEVICES_SHOWN:
        return found.devices
    return [d for d in found.devices if any(m.verdict in (Verdict.MISSED, Verdict.UNCLEAR) for m in d.models)]


def summary(found: Verification) -> str:
    counts = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in Verdict)
    without = found.count(None)
    failed = sum(device.failure is not None for device in found.devices)
    head = f"Simulated {_rates(found.rates).lower()}" if found.simulated else _rates(found.rates)
    asked = sum(found.count(verdict) for verdict in Verdict)
    share = f" ({found.count(Verdict.MET) / asked:.1%} of the objectives)" if found.simulated and asked else ""
    text = f"{head}: {counts}{share}" + (f", {without} without objective" if without else "")
    text += f"; {failed} of {len(found.devices)} servers failed" if failed else ""
    return text + ("; interrupted, the other devices were not verified" if found.interrupted else "")


def _rates(rates: str) -> str:
    return {"planned": "At planned rates", "full": "At full capacity", "trace": "At the trace's rates"}.get(
        rates, f"At {rates} x planned rates"
    )


def _device(device: DeviceVerification, simulated: bool) -> Iterator[str]:
    head = f"{device.device} ({device.type}), period {device.period}, {device.seconds:.4g} s, latencies in ms"
    yield from _wrapped(head)
    columns = [*_COLUMNS]
    if simulated:
        columns[_MEASURED] = "simulated"
    yield from _aligned([tuple(columns), *(_row(model) for model in device.models)])
    if simulated:
        yield from _aligned([_MORE, *(_more(model) for model in device.models)])
    for model in device.models:
        if model.reason:
            yield from _wrapped(f"{_short(model.model, _MODEL_WIDTH)}: {model.reason}", "  ")
    if device.failure is not None:
        yield from _wrapped(f"FAILED: {device.failure.message}", "  ")
        for line in device.failure.log_tail.splitlines()[-LOG_LINES:]:
            yield from _wrapped(line, "  | ")
        return
    if simulated:
        yield f"  busy    predicted {device.busy_predicted:.1%}, simulated {device.busy_measured or 0.0:.1%}"
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


def _more(model: ModelVerification) -> tuple[str, ...]:
    found = model.simulated
    known = {} if found is None else {quantile.percentile: quantile.value_ms for quantile in found.latencies}
    batch = None if found is None else found.executed_batch_mean
    return (
        model.model,
        *(_ms(known.get(percent)) for percent in (50, 95, 99)),
        "-" if found is None else f"{found.throughput_rps:.4g}",
        "-" if batch is None else f"{batch:.3g}",
        "-" if model.within is None else f"{model.within:.2%}",
    )


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    """Names give way where the figures need the room."""
    _, *widths = (max(len(row[column]) for row in rows) for column in range(len(rows[0])))
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
