"""A real Postfix as a fixture: a private instance with its own config, queue and log, as client or as next hop.

`postfix(relayhost=…)` is a client: what it accepts it relays to that host. `postfix(virtual=["shop.test"])` is a next
hop that delivers into one Maildir; `postfix(discard=True)` one that throws away. The system's own Postfix and its
config are not touched. Postfix starts its daemons as root, so these tests need root. `run_postfix` is the same without
pytest around it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from postroika.bench.peers.postfix import master_cf, private_settings
from tests.system.process import Process, free_port, program, run

# Deferred messages are looked at every few seconds, so that no test waits for minutes.
_WAKEUP_S = 5
_VIRTUAL = "virtual   unix  -  n  n  -     -  virtual\n"


class Postfix:
    """A running Postfix instance."""

    def __init__(self, process: Process, directory: Path, port: int) -> None:
        self.process = process
        self.host = "127.0.0.1"
        self.port = port
        self.log_file = directory / "postfix.log"
        self._directory = directory

    @property
    def address(self) -> str:
        """ "host:port"."""
        return f"{self.host}:{self.port}"

    def log(self) -> str:
        """What it has logged so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def mailbox(self) -> list[bytes]:
        """The messages in the Maildir, oldest first; each begins with Return-Path, X-Original-To, Delivered-To."""
        new = self._directory / "mail" / "inbox" / "new"
        files = sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns) if new.exists() else []
        return [file.read_bytes() for file in files]

    def queue_length(self) -> int:
        """Messages that it has accepted and not yet got rid of."""
        queue = self._directory / "queue"
        stages = ("incoming", "active", "deferred", "maildrop", "hold")
        return sum(len(files) for stage in stages for _, _, files in os.walk(queue / stage))

    def flush(self) -> None:
        """Try all deferred messages now."""
        _run_quietly("postfix", self._directory, "flush")


def _run_quietly(name: str, directory: Path, *arguments: str) -> str:
    result = run([program(name, "postfix"), "-c", directory / "etc", *arguments], within_s=60)
    if result.returncode != 0:
        pytest.fail(f"{name} {' '.join(arguments)} ended with {result.returncode}:\n{result.stdout}")
    return result.stdout


@contextmanager
def run_postfix(
    directory: Path,
    *,
    relayhost: str | None = None,
    virtual: Sequence[str] = (),
    discard: bool = False,
    settings: Mapping[str, str] = {},
) -> Iterator[Postfix]:
    """An instance in an empty directory that every user may enter; see `start_postfix`."""
    program("postfix", "postfix")
    if os.geteuid() != 0:
        text = "Postfix runs as root only; run the tests as root"
        if os.environ.get("CI"):
            pytest.fail(f"missing peer: {text}", pytrace=False)
        pytest.skip(f"missing peer: {text}")
    port = free_port()
    _write_config(directory, port, relayhost, virtual, discard, settings)
    daemons = Path(_run_quietly("postconf", directory, "-h", "daemon_directory").strip())
    _run_quietly("postfix", directory, "check")  # makes the directories of the queue
    # With -d, master(8) stays in the process group that ends with the test; SIGTERM makes it end its children.
    command = [daemons / "master", "-c", directory / "etc", "-d"]
    with Process(command, log=directory / "start.log", orphan_signal=signal.SIGTERM) as process:
        process.wait_accepting("127.0.0.1", port, within_s=30)
        yield Postfix(process, directory, port)


def start_postfix(stack: ExitStack, **how: Any) -> Postfix:
    """`run_postfix` in a directory of its own; the instance ends, and its files go, with `stack`."""
    # Not below pytest's directory, which Postfix's own user may not enter.
    directory = Path(mkdtemp(prefix="postroika-postfix-"))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    directory.chmod(0o755)
    return stack.enter_context(run_postfix(directory, **how))


StartPostfix = Callable[..., Postfix]


@pytest.fixture
def postfix() -> Iterator[StartPostfix]:
    """`postfix(relayhost=None, virtual=(), discard=False, settings={})`: see `run_postfix`."""
    with ExitStack() as stack:

        def start(**how: Any) -> Postfix:
            instance = start_postfix(stack, **how)
            stack.callback(lambda: print(instance.process.output(), instance.log()))  # shown when the test fails
            return instance

        yield start


def _write_config(
    directory: Path,
    port: int,
    relayhost: str | None,
    virtual: Sequence[str],
    discard: bool,
    settings: Mapping[str, str],
) -> None:
    for name in ("etc", "queue", "data", "mail"):
        (directory / name).mkdir()
    shutil.chown(directory / "data", "postfix", "postfix")
    shutil.chown(directory / "mail", "postfix", "postfix")
    owner = (directory / "data").stat()
    host, _, relay_port = (relayhost or "").rpartition(":")
    main_cf = {
        **private_settings(directory),
        "smtpd_recipient_limit": "2000",
        "mailbox_size_limit": "0",
        "virtual_mailbox_limit": "0",
        "virtual_mailbox_base": f"{directory}/mail",
        "virtual_mailbox_domains": " ".join(virtual),
        "virtual_mailbox_maps": "static:inbox/",
        "virtual_uid_maps": f"static:{owner.st_uid}",
        "virtual_gid_maps": f"static:{owner.st_gid}",
        "virtual_minimum_uid": "1",
        "relayhost": f"[{host}]:{relay_port}" if relayhost else "",
        "default_transport": "discard:" if discard else "smtp" if relayhost else "error:no relayhost",
        **settings,
    }
    text = "".join(f"{key} = {value}\n" for key, value in main_cf.items())
    (directory / "etc" / "main.cf").write_text(text)
    (directory / "etc" / "master.cf").write_text(master_cf(port, wakeup_s=_WAKEUP_S) + _VIRTUAL)
