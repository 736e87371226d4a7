from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from planner.errors import DeviceError
from profiler.devices.cpu import ProcessTree, ProcessTreeSampler
from profiler.devices.neighbours import Neighbours, busiest

MIB = 1024 * 1024


@contextmanager
def python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs `code` and is ready once it printed a line."""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def test_memory_that_comes_and_goes_is_the_peak() -> None:
    code = (
        "import sys; print('ready', flush=True); sys.stdin.readline()\n"
        f"block = b'x' * int({80 * MIB}); print('held', flush=True); sys.stdin.readline()\n"
        "del block; print('gone', flush=True); sys.stdin.readline()"
    )
    with python(code) as process, ProcessTreeSampler(process.pid, 1, hz=20) as sampler:
        assert process.stdin is not None
        assert process.stdout is not None
        before = sampler.sample()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        held = sampler.sample()
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        after = sampler.sample()
        usage = sampler.window(before, after)
    assert usage.peak_bytes - usage.lowest_bytes == pytest.approx(80 * MIB, rel=0.05)
    assert sampler.window(after).peak_bytes < usage.peak_bytes
    assert usage.memory_bytes[0][0] <= before
    assert any(at == held for at, _ in usage.memory_bytes)


def test_children_count_and_shared_file_pages_count_once() -> None:
    child = "import time; block = b'x' * int(40 * 2**20); print('ready', flush=True); time.sleep(60)"
    parent = (
        "import subprocess, sys, time\n"
        f"children = [subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE) for _ in range(2)]\n"
        "[c.stdout.readline() for c in children]\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline(); [c.kill() for c in children]; [c.wait() for c in children]"
    )
    with python(parent) as process, python("import time; print('ready', flush=True); time.sleep(60)") as lone:
        tree = ProcessTree(process.pid)
        assert len(tree.pids()) == 3
        lone_bytes = ProcessTree(lone.pid).memory_bytes()
        # the interpreter's own file pages are shared by all three, so three cost less than three times one
        assert 80 * MIB < tree.memory_bytes() < 80 * MIB + 3 * lone_bytes
        process.communicate("\n")


def test_memory_does_not_depend_on_who_else_maps_the_same_files() -> None:
    code = "import time; print('ready', flush=True); time.sleep(60)"
    with python(code) as process:
        alone = ProcessTree(process.pid).memory_bytes()
        with python(code), python(code):
            beside_others = ProcessTree(process.pid).memory_bytes()
    assert beside_others == pytest.approx(alone, rel=0.02)


def test_busy_share_over_the_cores_that_the_tree_has() -> None:
    with python("print('ready', flush=True)\nwhile True: pass") as process:
        start = os.times()
        with ProcessTreeSampler(process.pid, 2, hz=20) as sampler:
            time.sleep(1.0)
            usage = sampler.window()
        assert start
    seconds = usage.cpu_s[-1][0] - usage.cpu_s[0][0]
    cpu_s = usage.cpu_s[-1][1] - usage.cpu_s[0][1]
    assert usage.busy == pytest.approx(cpu_s / seconds / 2)
    assert 0 < usage.busy <= 0.52  # one busy process on two cores; less where the machine is loaded


def test_cpu_time_of_processes_that_ended_is_kept() -> None:
    burn = "import time\nend = time.process_time() + 0.4\nwhile time.process_time() < end: pass\ntime.sleep(0.5)"
    code = f"import subprocess, sys\nprint('ready', flush=True)\nsubprocess.run([sys.executable, '-c', {burn!r}])\n"
    code += "print('ended', flush=True); sys.stdin.readline()"
    with python(code) as process, ProcessTreeSampler(process.pid, 1, hz=10) as sampler:
        assert process.stdout is not None
        while len(ProcessTree(process.pid).pids()) < 2:
            time.sleep(0.01)
        sampler.sample()
        process.stdout.readline()
        sampler.sample()
        series = [cpu_s for _, cpu_s in sampler.window().cpu_s]
    assert series == sorted(series)
    assert series[-1] - series[0] >= 0.3


def test_a_process_that_ends_leaves_its_last_samples() -> None:
    with python("print('ready', flush=True); input()") as process:
        with ProcessTreeSampler(process.pid, 1, hz=50) as sampler:
            process.kill()
            process.wait()
            time.sleep(0.1)
        usage = sampler.window()
    assert usage.lowest_bytes > MIB


def test_a_process_that_never_was_has_no_samples() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with ProcessTreeSampler(process.pid, 1) as sampler:
        pass
    with pytest.raises(DeviceError, match="ended before their memory could be read"):
        sampler.window()


def test_the_busiest_window_is_where_the_load_was() -> None:
    code = "import sys\nprint('ready', flush=True); sys.stdin.readline()\nwhile True: pass"
    with python(code) as process, ProcessTreeSampler(process.pid, 1, hz=50) as sampler:
        assert process.stdin is not None
        time.sleep(0.5)
        begin = time.monotonic()
        process.stdin.write("\n")
        process.stdin.flush()
        time.sleep(0.6)
        found = sampler.busiest(0.4)
        whole = sampler.window()
        assert sampler.busiest(100.0).cpu_s == whole.cpu_s
    assert found.cpu_s[0][0] > begin - 0.2
    assert found.busy > whole.busy


def test_sampling_costs_little() -> None:
    with (
        python("import time; print('ready', flush=True); time.sleep(60)") as process,
        ProcessTreeSampler(process.pid, 1, hz=20, own_cores={max(os.sched_getaffinity(0))}) as sampler,
    ):
        time.sleep(1.0)
    assert 0 < sampler.own_cpu_s < 0.15


SPIN = """
import os, time
os.sched_setaffinity(0, {{{core}}})
print("ready", flush=True)
while True:
    pass
"""


def test_a_process_on_the_same_core_is_noticed_and_named() -> None:
    core = min(os.sched_getaffinity(0))
    idle = "import time; print('ready', flush=True); time.sleep(60)"
    with (
        python(idle) as server,
        python(SPIN.format(core=core)),
        ProcessTreeSampler(server.pid, 1, hz=20, neighbours=Neighbours(frozenset({core}))) as sampler,
    ):
        start = sampler.sample()
        time.sleep(2.5)
        usage = sampler.window(start, sampler.sample())
    assert usage.others_busy is not None
    assert usage.others_busy > 0.2  # whatever else may be on that core, the two share it
    assert usage.neighbours  # the busiest three; on a busy machine the one of this test need not be among them
    assert usage.warnings()[0].startswith("other processes ran on the device's cores: ")
    cpu = usage.remarks()["cpu"]
    assert isinstance(cpu, dict)
    assert cpu["others_busy"] == usage.others_busy


def test_neighbours_are_those_that_may_run_on_the_cores_and_are_named_by_their_cpu_time() -> None:
    first, last = min(os.sched_getaffinity(0)), max(os.sched_getaffinity(0))
    now = [0.0]
    watch = Neighbours(frozenset({first}), clock=lambda: now[0])
    with python(SPIN.format(core=first)) as here, python(SPIN.format(core=last)) as elsewhere:
        before = watch.look(own=())
        assert watch.look(own=()) is None  # at most once a second
        time.sleep(1.0)
        now[0] = 1.0
        after = watch.look(own=())
    assert before is not None
    assert after is not None
    pids = {pid for pid, _ in after}
    assert here.pid in pids
    assert (elsewhere.pid in pids) == (first == last)
    own = {key: busy for key, busy in after.items() if key[0] == here.pid}
    assert [name.endswith(f"(pid {here.pid})") for name in busiest(before, own)] == [True]
    assert busiest(after, after) == ()


def test_the_tree_itself_is_no_neighbour() -> None:
    core = min(os.sched_getaffinity(0))
    with (
        python(SPIN.format(core=core)) as server,
        ProcessTreeSampler(server.pid, 1, hz=20, neighbours=Neighbours(frozenset({core}))) as sampler,
    ):
        start = sampler.sample()
        time.sleep(2.5)
        usage = sampler.window(start, sampler.sample())
    assert usage.others_busy is not None
    # what is not the tree's is somebody else's, up to the kernel's ticks
    assert usage.busy + usage.others_busy <= 1.2
    assert not any(name.endswith(f"(pid {server.pid})") for name in usage.neighbours)


def test_without_known_cores_nothing_is_said_of_others() -> None:
    with python("import time; print('ready', flush=True); time.sleep(60)") as server:
        with ProcessTreeSampler(server.pid, 1) as sampler:
            sampler.sample()
        assert sampler.window().others_busy is None
        assert sampler.window().remarks() == {}
