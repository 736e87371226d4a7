"""A verification as a table that fits a terminal of 80 columns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planner.domain.codec import to_json
from planner.domain.verification import (
    SCHEMA_VERSION,
    DeviceVerification,
    Failure,
    ModelVerification,
    Verdict,
    Verification,
    verification_from_json,
)
from planner.errors import InputError
from planner.verify_table import WIDTH, summary, verification_table

MIB = 2**20
RANKER = ModelVerification(
    replica="ranker-0",
    model="ranker",
    rate_rps=83.3333,
    completed=2500,
    failed=0,
    percentile=99,
    bound_ms=25.0,
    predicted_ms=12.3456,
    expected_ms=9.0,
    measured_ms=10.1234,
    measured_low_ms=9.8765,
    measured_high_ms=11.5,
    error=0.2195,
    expected_error=-0.11,
    memory_bytes_predicted=200 * MIB,
    memory_bytes_measured=180 * MIB,
    busy_predicted=0.3,
    busy_measured=0.25,
    verdict=Verdict.MET,
    reason=None,
)
LONGEST = replace(
    RANKER,
    model="a-name-that-is-much-longer-than-its-column-v2",
    rate_rps=12345.678,
    bound_ms=12345.5,
    predicted_ms=12345.6,
    measured_ms=12345.6,
    measured_low_ms=11111.1,
    measured_high_ms=22222.2,
    error=-0.9876,
    verdict=Verdict.UNCLEAR,
    reason="25 of 2500 requests failed: INTERNAL: onnx runtime error 2: Got invalid dimensions for input: data for "
    "the following indices index: 2 Got: 320 Expected: 48 Please fix either the inputs or the model.",
)
DEVICE = DeviceVerification(
    device="n1/0",
    type="cpu-1",
    period="day",
    seconds=28.0,
    memory_bytes_predicted=300 * MIB,
    memory_bytes_measured=250 * MIB,
    busy_predicted=0.3,
    busy_measured=0.25,
    models=(RANKER,),
)
LONG_DEVICE = replace(
    DEVICE,
    device="a-node-in-some-cloud.region-1.compute.internal.example/12",
    type="NVIDIA-RTX-PRO-6000-Blackwell-Max-Q",
    period="the-afternoon",
    models=(LONGEST,),
)
DEAD = replace(
    LONG_DEVICE,
    memory_bytes_measured=None,
    busy_measured=None,
    failure=Failure(
        message="Triton refused 'ranker': load failed for model 'ranker': version 1 is at UNAVAILABLE state: Internal: "
        "ImportError: weights are missing",
        log_tail="\n".join(f"line {number}: " + "x" * 200 for number in range(30)),
    ),
)


def verification(*devices: DeviceVerification, **changes: object) -> Verification:
    values: dict[str, object] = {
        "schema_version": SCHEMA_VERSION,
        "plan_digest": "sha256:0",
        "rates": "planned",
        "load_generator": "builtin",
        "notes": (),
        "devices": devices,
    }
    return Verification(**(values | changes))  # type: ignore[arg-type]


def test_a_table_says_what_was_predicted_and_what_was_measured() -> None:
    assert verification_table(verification(DEVICE, notes=("the devices ran one after another",))) == (
        "At planned rates: 1 met, 0 missed, 0 unclear\n"
        "\n"
        "n1/0 (cpu-1), period day, 28 s, latencies in ms\n"
        "  model  req/s bound predicted measured   interval error verdict\n"
        "  ranker 83.33    25      12.3 p99 10.1 9.88..11.5  +22% met\n"
        "  memory  predicted 300.0 MiB, measured 250.0 MiB (+20%)\n"
        "  busy    predicted 30.0%, measured 25.0%\n"
        "\n"
        "note: the devices ran one after another"
    )


@pytest.mark.parametrize("device", [DEVICE, LONG_DEVICE, DEAD, replace(DEVICE, models=(RANKER, LONGEST))])
def test_no_line_is_wider_than_the_terminal(device: DeviceVerification) -> None:
    notes = ("devices and load generator do not fit on distinct cores: " * 3,)
    lines = verification_table(verification(device, DEVICE, notes=notes)).splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []


def test_long_names_keep_their_ends() -> None:
    text = verification_table(verification(replace(DEVICE, models=(replace(LONGEST, reason=None),))))
    assert "…" in text
    assert "ame-v2" not in text  # the end that tells one from another is the last six characters
    assert "umn-v2" in text


def test_long_reasons_are_wrapped_and_not_cut() -> None:
    text = " ".join(verification_table(verification(LONG_DEVICE)).split())
    assert LONGEST.reason is not None
    assert LONGEST.reason in text


def test_a_failed_server_shows_the_end_of_its_log() -> None:
    text = verification_table(verification(DEAD))
    assert "FAILED: Triton refused 'ranker'" in text
    assert "weights are missing" in text
    assert "| line 29" in text
    assert "| line 0:" not in text
    assert "memory" not in text
    assert "1 of 1 servers failed" in text


def test_what_was_not_measured_is_said() -> None:
    text = verification_table(
        verification(
            replace(
                DEVICE,
                memory_bytes_measured=None,
                busy_measured=None,
                models=(
                    replace(
                        RANKER,
                        bound_ms=None,
                        predicted_ms=None,
                        measured_ms=None,
                        measured_low_ms=None,
                        measured_high_ms=None,
                        error=None,
                        verdict=None,
                        reason="p99 needs 2,000 requests, the window of 10 s had 12",
                    ),
                ),
            )
        )
    )
    assert "  ranker 83.33     -         -        -        -     - -\n" in text
    assert "  ranker: p99 needs 2,000 requests" in text
    assert "memory  predicted 300.0 MiB, not measured\n" in text
    assert "busy    predicted 30.0%, not measured" in text


@pytest.mark.parametrize(
    ("rates", "text"),
    [("planned", "At planned rates"), ("full", "At full capacity"), ("1.2", "At 1.2 x planned rates")],
)
def test_the_summary_counts_verdicts(rates: str, text: str) -> None:
    missed, unbound = replace(RANKER, verdict=Verdict.MISSED), replace(RANKER, verdict=None)
    found = verification(replace(DEVICE, models=(RANKER, missed, missed, unbound)), DEAD, rates=rates)
    assert summary(found) == f"{text}: 1 met, 2 missed, 1 unclear, 1 without objective; 1 of 2 servers failed"


def test_a_record_reads_back() -> None:
    found = verification(DEVICE, DEAD, notes=("a note",))
    assert verification_from_json(to_json(found), "verification") == found
    assert not found.complete
    with pytest.raises(InputError, match="verification: field 'rates' is missing"):
        verification_from_json({key: value for key, value in to_json(found).items() if key != "rates"}, "verification")
    with pytest.raises(InputError, match="schema_version"):
        verification_from_json({**to_json(found), "schema_version": 99}, "verification")
