"""The account of a program: all of its processes, those that have ended and those that have detached themselves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from postroika.bench import control_group, machine, meter
from postroika.bench.interpreters import Interpreter
from postroika.bench.meter import Bystanders, Cgroup, Meter, ProcessTree
from postroika.bench.peers.program import Program
from postroika.errors import PostroikaError

# Burns an exact piece of CPU time: `burn 0.2`.
_BURN = "import sys, time\nend = time.process_time() + float(sys.argv[1])\nwhile time.process_time() < end: pass\n"
# Burns 0.2 s in a child that ends, and 0.2 s in a child that runs on; then says so by a file and waits.
_FAMILY = """
import os, pathlib, subprocess, sys, time
burn = pathlib.Path(sys.argv[1], "burn.py")
subprocess.run([sys.executable, burn, "0.2"], check=True)
child = os.fork()
if child == 0:
    end = time.process_time() + 0.2
    while time.process_time() < end: pass
    pathlib.Path(sys.argv[1], "done").touch()
time.sleep(1000)
"""
# A daemon as of old: forks twice, and nothing ties it to who started it.
_DETACH = """
import os, pathlib, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
"""


@pytest.fixture(params=["cgroup", "/proc"])
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to account for CPU time, where there are both."""
    wanted: str = request.param
    if wanted == "/proc":
        monkeypatch.setattr(Cgroup, "make", classmethod(lambda cls: None))
    else:
        group = Cgroup.make()
        if group is None:
            pytest.skip("no control group can be made here")
        group.remove()
    return wanted


def _program(tmp_path: Path, script: str, *arguments: str) -> Program:
    (tmp_path / "burn.py").write_text(_BURN)
    file = tmp_path / "program.py"
    file.write_text(script)
    return Program([sys.executable, file, *arguments], log=tmp_path / "log", directory=tmp_path)


def _wait_for(path: Path, program: Program) -> None:
    program.wait_for(path.exists, str(path), within_s=20)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_cpu_of_living_and_ended_processes_is_counted(tmp_path: Path, method: str) -> None:
    program = _program(tmp_path, _FAMILY, str(tmp_path))
    try:
        program.start()
        with Meter(program) as watched:
            _wait_for(tmp_path / "done", program)
        assert watched.cpu_method == method
        # 0.4 s, and what the interpreters take to start.
        assert 0.4 <= watched.cpu_s() < 2.0
        assert len(program.pids()) == 2
        before_s = program.cpu_s()
        program.kill()
        assert program.pids() == set()
        assert program.cpu_s() == pytest.approx(before_s, abs=0.1)
    finally:
        program.end()


def test_account_goes_on_over_restarts(tmp_path: Path, method: str) -> None:
    program = _program(tmp_path, _BURN, "0.2")
    try:
        for _ in range(2):
            program.start()
            assert program.wait(within_s=20) == 0
        assert 0.4 <= program.cpu_s() < 2.0
    finally:
        program.end()


def test_cpu_can_be_bounded(tmp_path: Path, method: str) -> None:
    (tmp_path / "burn.py").write_text(_BURN)
    command = [sys.executable, tmp_path / "burn.py", "0.4"]
    program = Program(command, log=tmp_path / "log", directory=tmp_path, cpu_cores=0.25)
    try:
        if not program.bounded:
            pytest.skip("the CPU time of a control group cannot be bounded here")
        began_at = time.monotonic()
        program.start()
        assert program.wait(within_s=60) == 0
        assert time.monotonic() - began_at > 0.8  # half of what the bound makes of it: a period more or less
    finally:
        program.end()


def test_detached_process_is_found_and_ended(tmp_path: Path, method: str) -> None:
    told = tmp_path / "pid"
    program = _program(tmp_path, _DETACH, str(told))
    try:
        program.start()
        # The first process has ended or is about to; the launcher stays for the one that is left.
        _wait_for(told, program)
        while not (pid := told.read_text()):
            time.sleep(0.01)
        assert int(pid) in program.pids()
        program.kill()
        assert not _alive(int(pid))
    finally:
        program.end()


def test_programs_end_with_the_harness(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    code = (
        "import sys, time, pathlib\n"
        "from postroika.bench.peers.program import Program\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        f"Program([sys.executable, '-c', {_DETACH!r}, {str(told)!r}], log=here / 'log', directory=here).start()\n"
        "time.sleep(1000)\n"
    )
    harness = subprocess.Popen([sys.executable, "-c", code])
    while not told.exists() or not told.read_text():
        assert harness.poll() is None
        time.sleep(0.01)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    pid = int(told.read_text())
    groups = [] if (own := control_group.own_group()) is None else list(own.glob(f"postroika-bench-{harness.pid}-*"))
    give_up_at = time.monotonic() + 20
    while _alive(pid) or any(group.exists() for group in groups):
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_stop_kills_what_does_not_obey(tmp_path: Path) -> None:
    script = "import pathlib, signal, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    program = _program(tmp_path, script + "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(1000)\n", str(tmp_path / "up"))
    try:
        program.start()
        _wait_for(tmp_path / "up", program)
        program.stop(within_s=0.1)
        assert not program.running
        assert program.pids() == set()
    finally:
        program.end()


def test_failure_to_start_is_told_with_what_was_said(tmp_path: Path) -> None:
    program = _program(tmp_path, "import sys\nsys.exit('no such luck')\n")
    try:
        program.start()
        with pytest.raises(PostroikaError, match=r"(?s)it ended at once.*no such luck"):
            program.wait_for(lambda: False, "it", within_s=20)
    finally:
        program.end()


def test_memory_is_seen_four_times_a_second(tmp_path: Path) -> None:
    held = 100 * 1024 * 1024
    script = "import pathlib, sys, time\n" + f"held = b'x' * {held}\n"
    program = _program(tmp_path, script + "pathlib.Path(sys.argv[1]).touch()\ntime.sleep(1000)\n", str(tmp_path / "up"))
    try:
        program.start()
        with Meter(program) as watched:
            _wait_for(tmp_path / "up", program)
        peak = watched.peak
        assert held < peak.private_bytes < peak.resident_bytes < 2 * held
        times = [at for at, _, _ in watched.samples]
        assert times == sorted(times)
        assert watched.samples[-1][1] == peak.resident_bytes
    finally:
        program.end()


def test_tree_is_a_process_with_all_below_it() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        child = int(shell.stdout.readline())
        try:
            assert ProcessTree(shell.pid).pids() == {shell.pid, child}
            assert ProcessTree(shell.pid, with_root=False).pids() == {child}
        finally:
            os.kill(child, signal.SIGKILL)
            shell.kill()


def test_waiting_for_quiet_gives_up(tmp_path: Path) -> None:
    program = _program(tmp_path, "while True: pass\n")
    try:
        program.start()
        with pytest.raises(TimeoutError, match=r"it is still busy after 0\.1 s"):
            meter.wait_until_quiet(program, within_s=0.1)
    finally:
        program.end()


def test_bystanders_are_all_but_the_programs_named(tmp_path: Path) -> None:
    program = _program(tmp_path, "while True: pass\n")
    try:
        program.start()
        program.wait_for(lambda: program.cpu_s() > 0, "CPU time", within_s=20)
        all_others, others = Bystanders(), Bystanders(program)
        before_s = program.cpu_s()
        program.wait_for(lambda: program.cpu_s() - before_s > 0.5, "more CPU time", within_s=20)
        assert 0 <= others.share() < all_others.share() <= 1.1
    finally:
        program.end()


def test_machine_is_described(tmp_path: Path) -> None:
    other = Interpreter(name="CPython 3.13.0", build="GCC 14", loop_ns=99.6, postroika="0.2", source=str(tmp_path))
    facts = machine.describe(tmp_path, {"Postfix": "3.7.11"}, {"newest": other})
    assert set(facts) == {
        "cpu", "cores", "memory_bytes", "kernel", "file_system", "sync_ms", "load_average_before", "python",
        "python_build", "python_loop_ns", "interpreters", "postroika", "trio", "lmdb", "msgspec", "peers",
    }  # fmt: skip
    assert facts["peers"] == {"Postfix": "3.7.11"}
    assert facts["interpreters"] == {"newest": "CPython 3.13.0, GCC 14, 100 ns a loop; Postroika 0.2 (no commit)"}
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["sync_ms"] > 0
    assert facts["python_loop_ns"] > 0
    assert list(tmp_path.iterdir()) == []


def test_memory_is_no_disk() -> None:
    assert not machine.is_disk(Path("/dev/shm"))
    assert machine.is_disk(Path(__file__).parent)
    assert machine.file_system(Path("/proc/self")) == "proc"
