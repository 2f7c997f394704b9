"""Started as root, run as somebody else: what the kernel says of each process and thread, and of their files."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.system.command import command
from tests.system.peers import StartSink
from tests.system.process import free_port, wait_until
from tests.system.public_python import python_for
from tests.system.server import Postroika

_USER = "nobody"  # whom every system has
_TO = '[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{address}"\n'
_MESSAGE = b"Subject: x\r\n\r\nx\r\n"


@pytest.fixture
def user() -> pwd.struct_passwd:
    if os.geteuid() != 0:
        text = "missing peer: only root can become another user; run the tests as root"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)
    return pwd.getpwnam(_USER)


@pytest.fixture
def directory() -> Iterator[Path]:
    """One that every user may enter, and root alone may change; pytest's are closed to others."""
    path = Path(mkdtemp(prefix="postroika-identity-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def site(user: pwd.struct_passwd, directory: Path) -> Path:
    """One that is the user's."""
    path = directory / "site"
    path.mkdir()
    os.chown(path, user.pw_uid, user.pw_gid)
    return path


def facts_of_threads(pid: int) -> list[dict[str, str]]:
    """What /proc says of every thread of a process."""
    threads = list(Path(f"/proc/{pid}/task").iterdir())
    return [
        {key: value.strip() for key, value in (line.split(":", 1) for line in status.splitlines())}
        for status in ((thread / "status").read_text() for thread in threads)
    ]


def run_as_root(code: str) -> str:
    done = subprocess.run([python_for(_USER), "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_thread_of_every_process_is_the_user_and_has_no_way_back(
    user: pwd.struct_passwd, site: Path, smtp_sink: StartSink
) -> None:
    sink = smtp_sink(dump=True)
    with Postroika(site, _TO.format(address=sink.address), user=_USER) as server:
        with server.dialogue() as client:
            client.message("", ["a@shop.test"], _MESSAGE)
        sink.wait_for(1)
        server.wait_for_events(1, "delivered")
        pids = [server.process.pid, *server.worker_pids()]
        threads = [facts for pid in pids for facts in facts_of_threads(pid)]
        assert len(threads) > len(pids)  # those that commit and write the log are among them
        expected = {
            "Uid": "\t".join([str(user.pw_uid)] * 4),
            "Gid": "\t".join([str(user.pw_gid)] * 4),
            "Groups": "",
            "CapInh": "0" * 16,
            "CapPrm": "0" * 16,
            "CapEff": "0" * 16,
            "CapAmb": "0" * 16,
            "NoNewPrivs": "1",
            "Umask": "0077",
        }
        assert [{key: facts[key] for key in expected} for facts in threads] == [expected] * len(threads)


def test_it_goes_on_when_a_worker_is_started_again(user: pwd.struct_passwd, site: Path) -> None:
    with Postroika(site, user=_USER, workers=1) as server:
        (worker,) = server.worker_pids()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.worker_pids() not in ([], [worker]), "a new worker")
        wait_until(lambda: _serves(server), "a new worker to serve")
        (worker,) = server.worker_pids()
        assert {facts["Uid"] for facts in facts_of_threads(worker)} == {"\t".join([str(user.pw_uid)] * 4)}


def _serves(server: Postroika) -> bool:
    with server.dialogue("again.test") as client:
        return client.ehlo.startswith("250")


def test_no_core_is_written_and_no_process_of_the_user_can_look_inside(user: pwd.struct_passwd, site: Path) -> None:
    with Postroika(site, user=_USER, workers=1) as server:
        for pid in (server.process.pid, *server.worker_pids()):
            limits = Path(f"/proc/{pid}/limits").read_text()
            (core,) = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
            assert core == ["0", "0"]
            # The kernel gives the files in /proc of a process that is not dumpable to root (proc(5)).
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0
            look = (
                f"import os; os.setgid({user.pw_gid}); os.setuid({user.pw_uid})\n"
                f"try:\n    open('/proc/{pid}/mem', 'rb')\nexcept PermissionError:\n    print('refused')"
            )
            assert run_as_root(look) == "refused"


def test_hooks_that_root_alone_may_read_are_run_as_the_user(
    user: pwd.struct_passwd, directory: Path, site: Path
) -> None:
    hooks = directory / "hooks.py"
    hooks.write_text(
        "import os\nfrom postroika.hooks import reject\nWHO = os.getuid()\n"
        "async def mail(client, mail): return reject(f'{WHO} and {os.getuid()}')\n"
    )
    hooks.chmod(0o600)
    with Postroika(site, f'[policy]\nhooks = "{hooks}"\n', user=_USER, workers=1) as server:
        assert server.run("check")
        with server.dialogue() as client:
            assert client.say("MAIL FROM:<a@b.test>") == f"550 5.7.1 {user.pw_uid} and {user.pw_uid}"


def test_hooks_of_somebody_else_are_not_run(user: pwd.struct_passwd, directory: Path, site: Path) -> None:
    hooks = directory / "hooks.py"
    hooks.write_text(f"open({str(directory / 'ran')!r}, 'w')\nasync def mail(client, mail): ...\n")
    hooks.chmod(0o644)
    os.chown(hooks, 12345, 12345)
    server = Postroika(site, f'[policy]\nhooks = "{hooks}"\n', user=_USER, workers=1)
    done = command(server, "check")
    assert (done.code, "hooks.py: belongs to user 12345, who could have us do anything: chown it" in done.err) == (
        78,
        True,
    )
    os.chown(hooks, user.pw_uid, 0)  # the user's own: run as the user, not as root
    assert command(server, "check").code == 78
    assert not (directory / "ran").exists()


def test_ports_below_1024_are_bound_before(user: pwd.struct_passwd, site: Path) -> None:
    port = _free_low_port()
    with Postroika(site, user=_USER, port=port) as server, server.dialogue() as client:
        assert client.greeting.startswith("220 ")
        held = Path(f"/proc/{server.process.pid}/status").read_text()
        assert f"Uid:\t{user.pw_uid}\t" in held


def _free_low_port() -> int:
    for port in range(1023, 600, -1):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except PermissionError:
                pytest.skip("missing peer: this root may not bind ports below 1024 either")
            except OSError:
                continue
            return port
    pytest.fail("no free port below 1024")


def test_files_belong_to_the_user_and_to_nobody_else(user: pwd.struct_passwd, site: Path, smtp_sink: StartSink) -> None:
    sink = smtp_sink(dump=True)
    with Postroika(site, _TO.format(address=sink.address), user=_USER, workers=1) as server:
        with server.dialogue() as client:
            client.message("", ["a@shop.test"], _MESSAGE)
        server.wait_for_events(1, "delivered")
        found = {
            str(path.relative_to(site)): (stat.filemode(path.lstat().st_mode), path.lstat().st_uid)
            for path in site.rglob("*")
            if path.name not in {"postroika.toml", "server.log"}
        }
    me = user.pw_uid
    assert found == {
        "spool": ("drwx------", me),
        "spool/.supervisor.lock": ("-rw-------", me),
        "spool/.shard-00.lock": ("-rw-------", me),
        "spool/shard-00": ("drwx------", me),
        "spool/shard-00/data.mdb": ("-rw-------", me),
        "spool/shard-00/lock.mdb": ("-rw-------", me),
        "spool/shard-00/inflight": ("-rw-------", me),
        "control.sock": ("srw-------", me),
        "events.jsonl": ("-rw-------", me),
        "events.jsonl.lock": ("-rw-------", me),
    }


def test_directories_that_only_root_can_make_are_made_for_the_user(user: pwd.struct_passwd, directory: Path) -> None:
    server = Postroika(directory, user=_USER)
    server.config_file.write_text(
        f'[process]\nuser = "{_USER}"\n[server]\nworkers = 1\nspool = "lib/mail/spool"\ncontrol = "run/control.sock"\n'
        f'[log]\nevents = "log/events.jsonl"\n[[listener]]\naddress = "127.0.0.1:{free_port()}"\n'
    )
    with server:
        owners = {
            str(path.relative_to(directory)): (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode))
            for path in (directory / name for name in ("lib", "lib/mail", "lib/mail/spool", "run", "log"))
        }
    assert owners == {
        "lib": (0, 0o755),
        "lib/mail": (0, 0o755),
        "lib/mail/spool": (user.pw_uid, 0o700),
        "run": (user.pw_uid, 0o700),
        "log": (user.pw_uid, 0o700),
    }


def test_root_does_not_follow_a_link_of_the_user(user: pwd.struct_passwd, directory: Path) -> None:
    """The user's directory leads into one that is root's: root must make nothing there for the user."""
    precious, site = directory / "precious", directory / "site"
    precious.mkdir(mode=0o755)
    site.mkdir()
    (site / "var").symlink_to(precious)
    os.chown(site, user.pw_uid, user.pw_gid)
    os.chown(site / "var", user.pw_uid, user.pw_gid, follow_symlinks=False)
    assert _refusal(directory, 'spool = "site/var/spool"') == (
        f"{site}/var/spool cannot be made: {site}/var is not open to {_USER}, and others may change {site}: root makes "
        "nothing there"
    )
    assert list(precious.iterdir()) == []


def _refusal(directory: Path, server: str, user: str = _USER) -> str:
    """What a start says that is refused."""
    (directory / "p.toml").write_text(
        f'[process]\nuser = "{user}"\n[server]\nworkers = 1\ncontrol = "run/control.sock"\n{server}\n'
        f'[log]\nevents = "events.jsonl"\n[[listener]]\naddress = "127.0.0.1:{free_port()}"\n'
    )
    command = [python_for(_USER), "-m", "postroika", "serve", "--config", str(directory / "p.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=directory)
    assert done.returncode in {1, 78}, done.stderr
    return done.stderr.splitlines()[-1].removeprefix("postroika: ")


def test_spool_of_somebody_else_is_refused_and_left_alone(user: pwd.struct_passwd, directory: Path) -> None:
    spool = directory / "spool"
    spool.mkdir(mode=0o755)
    assert _refusal(directory, 'spool = "spool"') == (
        f"{spool} belongs to root, and the server runs as {_USER}: chown -R {_USER}: {spool}"
    )
    assert (spool.stat().st_uid, stat.S_IMODE(spool.stat().st_mode), list(spool.iterdir())) == (0, 0o755, [])


def test_spool_that_root_has_used_is_refused_to_the_user(user: pwd.struct_passwd, directory: Path) -> None:
    with Postroika(directory, user="root", workers=1) as server:
        assert "everything runs as root, because process.user says so" in server.output()
    os.chown(server.spool, user.pw_uid, user.pw_gid)  # but not what is in it
    assert _refusal(directory, 'spool = "spool"').startswith(f"{server.spool}/.shard-00.lock belongs to root, and ")
    subprocess.run(["chown", "-R", f"{_USER}:", str(server.spool)], check=True)
    (directory / "events.jsonl").touch()
    assert _refusal(directory, 'spool = "spool"') == (
        f"{directory}/events.jsonl belongs to root, and the server runs as {_USER}: "
        f"chown {_USER}: {directory}/events.jsonl"
    )


def test_root_without_a_user_is_told_what_to_write(user: pwd.struct_passwd, directory: Path) -> None:
    said = _refusal(directory, 'spool = "spool"', user="")
    assert said.startswith(
        f"{directory}/p.toml: process.user: root has started the server, and the config names nobody to "
    )
    assert not (directory / "spool").exists()


def test_a_worker_that_was_started_as_root_does_not_run(user: pwd.struct_passwd, directory: Path) -> None:
    code = f"""
import os, socket, subprocess, sys
from postroika.config import Config, Process, Server, encode_whole
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
handoff, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
config = Config(process=Process(user={_USER!r}), server=Server(spool={str(directory / "spool")!r}))
command = [sys.executable, "-m", "postroika.worker", "0", str(its.fileno()), str(theirs.fileno()), str(os.getpid())]
done = subprocess.run(command, input=encode_whole(config), pass_fds=[its.fileno(), theirs.fileno()])
print(done.returncode, ours.recv(65536).decode())
"""
    code, answer = run_as_root(code).split(" ", 1)
    assert code != "0"
    assert "a worker was started as root, which the config does not say; it does not run" in answer
    assert not (directory / "spool").exists()


def test_root_cannot_be_had_back(user: pwd.struct_passwd) -> None:
    """By none of the calls that would do it, with a thread that was there before."""
    said = run_as_root(f"""
import ctypes, os, threading
from postroika.config import Process
from postroika.process import identity
identity.assume(identity.to_assume(Process(user={_USER!r})))
got = []
def attempts():
    for attempt in (
        lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setreuid(0, 0), lambda: os.setresuid(-1, -1, 0),
        lambda: os.setgid(0), lambda: os.setegid(0), lambda: os.setregid(0, 0), lambda: os.setresgid(-1, -1, 0),
        lambda: os.setgroups([0]), lambda: os.setgroups([]), lambda: os.chroot("/"), lambda: open("/etc/shadow"),
    ):
        try:
            attempt()
        except PermissionError:
            continue
        got.append("back")
attempts()
thread = threading.Thread(target=attempts)
thread.start()
thread.join()
print(got, os.environ["HOME"], os.environ["USER"])
""")
    assert said == f"[] {user.pw_dir} {_USER}"


def test_key_that_only_root_may_read_is_found_by_who_opens_files_after_it(
    user: pwd.struct_passwd, directory: Path
) -> None:
    """By the supervisor and, under the same name, by a program that it starts."""
    key, seen = directory / "key.pem", directory / "seen.pem"
    for file in (key, seen):
        file.write_text("the key")
    key.chmod(0o600)
    os.chown(seen, user.pw_uid, user.pw_gid)
    seen.chmod(0o600)
    said = run_as_root(f"""
import os, subprocess, sys
from typing import Annotated
import msgspec
from postroika.config import Config, Log, Process, Server
from postroika.config.named_files import SecretFile
from postroika.supervisor import startup
class Keys(msgspec.Struct, frozen=True):
    key: SecretFile = {str(key)!r}
    seen: SecretFile = {str(seen)!r}
class WithKeys(Config, frozen=True, kw_only=True):
    keys: Keys = Keys()
config = WithKeys(
    process=Process(user={_USER!r}),
    server=Server(spool={str(directory / "spool")!r}, control={str(directory / "run/control.sock")!r}),
    log=Log(events=""),
    listener=(),
)
started = startup.start(config)
keys = started.config.keys
try:
    open({str(key)!r})
except PermissionError:
    print("refused", keys.seen == {str(seen)!r}, open(keys.key).read(), open(keys.key).read())
code = "import sys; print(open(sys.argv[1]).read())"
print(subprocess.check_output([sys.executable, "-c", code, keys.key], pass_fds=started.files, text=True))
try:
    open(keys.key, "w")
except PermissionError:
    print("refused")
""")
    assert said.split() == ["refused", "True", "the", "key", "the", "key", "the", "key", "refused"]


def test_directory_that_is_in_the_user_s_way_is_named(user: pwd.struct_passwd, directory: Path) -> None:
    closed = directory / "closed"
    spool = closed / "spool"
    spool.mkdir(parents=True)
    os.chown(spool, user.pw_uid, user.pw_gid)
    closed.chmod(0o700)
    said = run_as_root(f"""
from postroika.config import Config, Log, Process, Server
from postroika.errors import SpoolError
from postroika.supervisor import startup
server = Server(spool={str(spool)!r}, control={str(directory / "control.sock")!r})
try:
    startup.start(Config(process=Process(user={_USER!r}), server=server, log=Log(events=""), listener=()))
except SpoolError as error:
    print(error)
""")
    assert said == f"{spool} cannot be used: {closed} is closed to {_USER}"


def test_commands_of_root_work_beside_it(user: pwd.struct_passwd, site: Path) -> None:
    with Postroika(site, user=_USER, workers=1) as server:
        assert '"messages": []' in server.run("queue", "list", "--json")
        assert server.stop() == 0
    assert '"messages": []' in server.run("queue", "list", "--json")
    with server:  # nothing that root has done meanwhile is in the way
        assert {path.stat().st_uid for path in server.spool.rglob("*")} == {user.pw_uid}
