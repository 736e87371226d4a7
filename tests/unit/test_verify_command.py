"""`planner verify`: what it asks for, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from planner import cli
from planner.domain.codec import to_json
from planner.domain.latency import CurvePoint
from planner.domain.problem import BatchTime, LatencyBasis
from planner.domain.verification import SCHEMA_VERSION, DeviceVerification, Failure, Verdict, Verification
from planner.plan_files import write_plan
from planner.workflow import serving
from planner.workflow.bench import _stubs
from tests.plans import placed, replica_option
from tests.problems import model
from tests.unit.test_verify_table import DEVICE, RANKER

OPTION = replica_option("ranker", "cpu-1")
MET, MISSED, UNCLEAR = (
    replace(DEVICE, models=(replace(RANKER, verdict=verdict),))
    for verdict in (Verdict.MET, Verdict.MISSED, Verdict.UNCLEAR)
)
DEAD = replace(DEVICE, device="n1/1", failure=Failure(message="Triton ended by signal SIGKILL", log_tail="last words"))


class Verified:
    """Stands in for the run: what was asked, and the answer to give."""

    def __init__(self) -> None:
        self.devices: tuple[DeviceVerification, ...] = (MET,)
        self.error: BaseException | None = None
        self.asked: Any = None

    def __call__(self, request: Any, reporter: Any) -> tuple[Verification, Path]:
        self.asked = request
        reporter.device("n1/0", 10.0, 1, 1)
        if self.error is not None:
            raise self.error
        return self.found, request.plan / "verification.json"

    @property
    def found(self) -> Verification:
        return Verification(
            schema_version=SCHEMA_VERSION,
            plan_digest="sha256:0",
            rates="planned",
            load_generator="builtin",
            notes=("a note",),
            devices=self.devices,
        )


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Verified:
    monkeypatch.chdir(tmp_path)
    fake = Verified()
    monkeypatch.setattr(serving, "verify_plan", fake)
    return fake


@pytest.mark.parametrize(
    ("devices", "code", "text"),
    [
        ((MET, UNCLEAR), 0, ""),
        ((MET, MISSED), 4, "error: 1 of 2 replicas missed their bound: ranker (ranker-0)"),
        ((MET, DEAD), 5, "error: 1 of 2 servers failed; n1/1: Triton ended by signal SIGKILL"),
        ((DEAD, MISSED), 4, "error: 1 of 2 replicas missed"),
    ],
)
def test_exit_codes(
    verified: Verified,
    capsys: pytest.CaptureFixture[str],
    devices: tuple[DeviceVerification, ...],
    code: int,
    text: str,
) -> None:
    verified.devices = devices
    assert cli.run(["verify"]) == code
    said = capsys.readouterr()
    assert text in said.err
    assert ("last words" in said.err) == (code == 5)
    assert "n1/0 (cpu-1), period day" in said.out
    assert "note: a note" in said.out
    assert f"written: {Path('plan', 'verification.json')}" in said.out


def test_json_is_the_record_and_whether_it_is_complete(verified: Verified, capsys: pytest.CaptureFixture[str]) -> None:
    verified.devices = (MET, DEAD)
    assert cli.run(["verify", "--json"]) == 5
    assert json.loads(capsys.readouterr().out) == {**to_json(verified.found), "complete": False}


def test_options_reach_the_run(verified: Verified, tmp_path: Path) -> None:
    (tmp_path / "measure.yaml").write_text("schema_version: 1\nshapes: {ranker: {x: [3, 4]}}\n")
    arguments = "verify p --rates 1.5 --device n1/0 --device n1/1 --cores 0,2-3 --max-seconds 30 --seed 7"
    assert cli.run([*arguments.split(), "--model-repository", "m", "--triton-server", "t"]) == 0
    asked = verified.asked
    assert (asked.plan, asked.model_repository, asked.triton_server) == (Path("p"), Path("m"), Path("t"))
    assert (asked.devices, asked.cores) == (("n1/0", "n1/1"), (0, 2, 3))
    assert (asked.settings.factor, asked.settings.max_seconds, asked.settings.seed) == (1.5, 30, 7)
    assert asked.settings.shapes == {"ranker": {"x": (3, 4)}}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--rates", "much"], "rates must be planned, full or a number > 0, got 'much'"),
        (["--cores", "x"], "cores 'x': write for example 0 or 0,2-3"),
        (["--max-seconds", "5"], "5.0 is not in the range x>=10"),
        (["--config", "absent.yaml"], "absent.yaml"),
    ],
)
def test_bad_options_are_refused(
    verified: Verified, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert cli.run(["verify", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert verified.asked is None


def test_an_interruption_says_that_nothing_was_written(verified: Verified) -> None:
    verified.error = KeyboardInterrupt()
    assert cli.run(["verify"]) == 130
    with pytest.raises(click.Abort) as caught:
        cli.root.main(["verify"], standalone_mode=False)
    assert str(caught.value.__cause__) == "no verification was written"


def test_what_this_machine_cannot_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_plan(tmp_path / "plan", *placed([OPTION], {"n1/0": [OPTION.id]}))
    arguments = ["verify", str(tmp_path / "plan"), "--model-repository", str(tmp_path)]
    assert cli.run([*arguments, "--device", "n1/7"]) == 2
    assert "device 'n1/7' carries nothing in this plan; it uses n1/0" in capsys.readouterr().err
    assert cli.run([*arguments, "--cores", "4095"]) == 2
    assert "core 4095 is not among the cores" in capsys.readouterr().err
    assert cli.run([*arguments, "--triton-server", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err
    assert not (tmp_path / "plan" / "verification.json").exists()


def test_a_server_that_is_gone_has_no_model_processes() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert list(_stubs(ended.pid)) == []
    assert list(_stubs(os.getpid())) == []


@pytest.fixture
def on_disk(tmp_path: Path) -> Path:
    """Three milliseconds a request, ten requests a second, and a bound that is met alone."""
    measured = {"curve": (CurvePoint(10_000, 4_000),), "latency_basis": LatencyBasis.OPEN}
    option = replica_option("ranker", "cpu-1", batch_time=BatchTime(3_000_000, 0), **measured)
    asked = [model("ranker", 10_000, latency_bound_us=30_000)]
    problem, plan = placed([option], {"n1/0": [option.id]}, models=asked)
    write_plan(tmp_path / "plan", problem, plan)
    return tmp_path / "plan"


def test_a_simulation_needs_no_server_and_says_what_it_is(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["verify", str(on_disk), "--simulate", "--requests", "3000"]) == 0
    assert "Simulated at planned rates: 1 met" in capsys.readouterr().out
    written = json.loads((on_disk / "verification.json").read_text())
    assert (written["simulated"], written["load_generator"]) == (True, "simulator")
    # 400 requests a second are more than fit.
    assert cli.run(["verify", str(on_disk), "--simulate", "--rates", "40", "--json"]) == 4
    said = capsys.readouterr()
    assert json.loads(said.out)["devices"][0]["models"][0]["verdict"] == "missed"
    assert "1 of 1 replicas missed their bound" in said.err
    assert cli.run(["report", str(on_disk), "-o", str(on_disk / "report.html")]) == 0
    page = (on_disk / "report.html").read_text()
    assert "Simulated, not verified on a server." in page
    assert "Predicted beside simulated" in page


def test_a_trace_is_simulated(on_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = on_disk / "trace.csv"
    trace.write_text("timestamp,model\n" + "".join(f"{0.1 * k:.1f},ranker\n" for k in range(3000)))
    assert cli.run(["verify", str(on_disk), "--simulate", "--trace", str(trace)]) == 0
    said = capsys.readouterr().out
    assert "Simulated at the trace's rates: 1 met" in said
    assert "p99 3 " in said
    assert cli.run(["verify", str(on_disk), "--simulate", "--trace", str(on_disk / "absent.csv")]) == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--trace", "t.csv"], "--trace needs --simulate"),
        (["--requests", "5"], "--requests needs --simulate"),
        (["--simulate", "--cores", "0"], "--cores is for a real server, --simulate starts none"),
        (["--simulate", "--max-seconds", "20"], "--max-seconds is for a real server"),
        (["--simulate", "--trace", "t.csv", "--rates", "2"], "--rates and --trace exclude each other"),
        (["--simulate", "--device", "n1/7"], "device 'n1/7' carries nothing in this plan; it uses n1/0"),
        (["--simulate", "--rates", "much"], "rates must be planned, full or a number > 0"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    on_disk: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert cli.run(["verify", str(on_disk), *arguments]) == 2
    assert text in capsys.readouterr().err
    assert not (on_disk / "verification.json").exists()
