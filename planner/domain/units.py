"""Units and rounding. Rounding stands here alone and always goes against ourselves.

Problem files hold integers: bytes, milli-requests per second (mrps), parts per million (ppm) and
microseconds. Demand and busy time round up, capacity and tolerance round down.
"""

from __future__ import annotations

import re
from fractions import Fraction
from math import ceil, floor

from planner.errors import InputError

PPM = 1_000_000

_BYTE_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip


def exact(value: float | int | str | Fraction) -> Fraction:
    """The decimal that the user wrote: 1.2 is 12/10 and not the nearest binary number."""
    return value if isinstance(value, Fraction) else Fraction(str(value))


def demand_mrps(rate_rps: float | Fraction, headroom: float = 0.0) -> int:
    return ceil(exact(rate_rps) * (1 + exact(headroom)) * 1000)


def capacity_mrps(rate_rps: float | Fraction) -> int:
    return floor(exact(rate_rps) * 1000)


def busy_ppm(share: float | Fraction) -> int:
    return ceil(exact(share) * PPM)


def share_ppm(share: float) -> int:
    """A share that is asked for."""
    return ceil(exact(share) * PPM)


def millis(amount: float) -> int:
    """Thousandths of what is needed, such as CPU cores."""
    return ceil(exact(amount) * 1000)


def limit_ppm(share: float | Fraction) -> int:
    return floor(exact(share) * PPM)


def latency_us(latency_ms: float) -> int:
    return ceil(exact(latency_ms) * 1000)


def bound_us(bound_ms: float) -> int:
    return floor(exact(bound_ms) * 1000)


def parse_bytes(text: str | int, *, where: str) -> int:
    """Read "4GiB", "512 MB" or a plain number of bytes."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in _BYTE_UNITS:
        raise InputError(f"{where}: {text!r} is not an amount of memory; write for example 4GiB or 512MiB")
    return floor(exact(match[1]) * _BYTE_UNITS[match[2].upper()])


def format_bytes(amount: int) -> str:
    if abs(amount) >= 2**30:
        return f"{amount / 2**30:.1f} GiB"
    if abs(amount) >= 2**20:
        return f"{amount / 2**20:.1f} MiB"
    return f"{amount} B"


def counted(number: int, noun: str, plural: str = "") -> str:
    """ "1 GPU", "2 GPUs"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
