"""The adaptors of the harness: each server relays, is accounted for, keeps its mail when it is told to, and is gone at
its end. `make test` unpacks those that are missing (`tools/prepare-peers`)."""

import contextlib
import os
import re
import shutil
import smtplib
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from postroika.bench import peers
from postroika.bench.driver_own import OwnDriver
from postroika.bench.driver_postfix import PostfixDriver
from postroika.bench.drivers import RunningSink, drivers
from postroika.bench.load_settings import LoadSettings
from postroika.bench.meter import Meter
from postroika.bench.peers import Peer, PeerOptions, signing
from postroika.bench.peers.postfix import Postfix
from postroika.bench.sink_settings import SinkSettings
from postroika.errors import PostroikaError
from tests.system.process import accepts, wait_until

_MESSAGES = 40
_DRIVER = PostfixDriver()


def _need(why: str | None) -> None:
    if why is not None:
        if os.environ.get("CI"):
            pytest.fail(f"missing peer: {why}", pytrace=False)
        pytest.skip(f"missing peer: {why}")


@pytest.fixture(params=peers.NAMES)
def peer(request: pytest.FixtureRequest) -> Peer:
    """Each in turn."""
    found = peers.peer(request.param)
    _need(found.missing())
    return found


@pytest.fixture
def directory() -> Iterator[Path]:
    """One on a disk, which every user may enter."""
    path = Path(mkdtemp(prefix="postroika-peer-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def sink() -> Iterator[RunningSink]:
    """smtp-sink."""
    _need(_DRIVER.missing())
    with _DRIVER.sink(SinkSettings()) as running:
        yield running


def _options(directory: Path, sink: RunningSink, **more: Any) -> PeerOptions:
    return PeerOptions(directory=directory, next_hop=("127.0.0.1", sink.port), connections=5, **more)


def _send(port: int, messages: int = _MESSAGES) -> None:
    # No more sessions than OpenSMTPD lets wait for being accepted.
    load = LoadSettings(target=f"127.0.0.1:{port}", sessions=4, messages=messages, size="2000")
    assert _DRIVER.load(load).complete


def _wait_for(sink: RunningSink, messages: int) -> None:
    wait_until(lambda: sink.status()["messages"] >= messages, f"{messages} messages in the sink", within_s=60)


def test_peer_relays_and_is_gone_when_it_is_stopped(peer: Peer, directory: Path, sink: RunningSink) -> None:
    with peer.start(_options(directory, sink)) as running:
        with Meter(running) as meter:
            _send(running.port)
            _wait_for(sink, _MESSAGES)
            running.wait_idle(30)
        assert running.queued() == 0
        assert meter.cpu_s() > 0
        assert meter.peak.resident_bytes > meter.peak.private_bytes > 0
        assert running.settings.startswith("# durable: ")
        assert running.version[0].isdigit()
        pids = running.pids()
        assert pids
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert running.pids() == set()
    assert not accepts("127.0.0.1", running.port)
    assert sink.stop()["messages"] == _MESSAGES


def test_suspended_peer_keeps_its_mail_through_a_kill_until_it_is_released(
    peer: Peer, directory: Path, sink: RunningSink
) -> None:
    with peer.start(_options(directory, sink, suspended=True)) as running:
        _send(running.port)
        running.wait_idle(30)
        assert running.queued() == _MESSAGES
        port = running.port
        running.kill()
        assert running.pids() == set()
        running.restart()
        assert running.port == port
        assert running.queued() == _MESSAGES
        assert sink.status()["messages"] == 0
        running.release()
        _wait_for(sink, _MESSAGES)
        wait_until(lambda: running.queued() == 0, "the queue to be empty", within_s=60)
        # What comes now is not kept.
        _send(running.port, 1)
        _wait_for(sink, _MESSAGES + 1)
    assert sink.stop()["messages"] == _MESSAGES + 1


@pytest.mark.parametrize("name", ["postroika", "postfix", "exim"])
def test_peer_takes_mail_over_tls(name: str, directory: Path, sink: RunningSink) -> None:
    peer = peers.peer(name)
    _need(peer.missing())
    with peer.start(_options(directory, sink, tls=True)) as running:
        with smtplib.SMTP("127.0.0.1", running.port, timeout=30) as client:
            client.starttls()
            assert client.sendmail("a@x.test", ["b@y.test"], b"Subject: over TLS\r\n\r\nhello\r\n") == {}
        _wait_for(sink, 1)
        wait_until(lambda: running.queued() == 0, "the queue to be empty", within_s=60)
    assert sink.stop()["messages"] == 1


def test_peer_without_tls_says_so(directory: Path) -> None:
    peer = peers.peer("opensmtpd")
    _need(peer.missing())
    with pytest.raises(PostroikaError, match="TLS"):
        peer.start(PeerOptions(directory=directory, suspended=True, tls=True))


@pytest.mark.parametrize("name", ["postroika", "postfix"])
def test_peer_signs(name: str, directory: Path) -> None:
    peer = peers.peer(name)
    _need(peer.missing() or signing.filter_missing())
    kept = directory / "kept"
    with OwnDriver().sink(SinkSettings(store=str(kept))) as sink:
        with peer.start(_options(directory / "peer", sink, signed=True)) as running:
            _send(running.port, 2)
            _wait_for(sink, 2)
            pids = running.pids()
        assert sink.stop()["messages"] == 2
    messages = [message.read_bytes() for message in (kept / "new").iterdir()]
    fields = [re.search(rb"(?m)^DKIM-Signature:(.*\n(?:[ \t].*\n)+)", message) for message in messages]
    tags = [b"".join(field[1].split()).split(b";") for field in fields if field is not None]
    for wanted in (b"a=rsa-sha256", b"c=relaxed/relaxed", b"d=load.test", b"s=s1"):
        assert [wanted in one for one in tags] == [True, True]
    names = [one.removeprefix(b"h=").lower().split(b":") for some in tags for one in some if one.startswith(b"h=")]
    assert [sorted(one) for one in names] == [sorted(names[0])] * 2
    assert (names[0].count(b"from"), names[0].count(b"list-unsubscribe")) == (2, 1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)  # nor the filter


def test_peer_that_is_not_set_up_to_sign_says_so(directory: Path) -> None:
    peer = peers.peer("exim")
    _need(peer.missing())
    with pytest.raises(PostroikaError, match="not set up to sign"):
        peer.start(PeerOptions(directory=directory, suspended=True, signed=True))


def test_two_of_a_kind_run_side_by_side(directory: Path, sink: RunningSink) -> None:
    exim = peers.peer("exim")
    _need(exim.missing())
    with (
        exim.start(_options(directory / "a", sink)) as one,
        exim.start(_options(directory / "b", sink, suspended=True)) as other,
    ):
        _send(one.port, 3)
        _send(other.port, 2)
        _wait_for(sink, 3)
        wait_until(lambda: (one.queued(), other.queued()) == (0, 2), "one to have sent, the other not", within_s=60)
        assert one.pids().isdisjoint(other.pids())
    assert (one.pids() | other.pids(), sink.stop()["messages"]) == (set(), 3)


def test_unpacked_postfix_relays_where_none_is_installed(directory: Path, sink: RunningSink) -> None:
    postfix = Postfix(unpacked=True)
    _need(postfix.missing())
    with postfix.start(_options(directory, sink)) as running:
        _send(running.port, 5)
        _wait_for(sink, 5)
        wait_until(lambda: running.queued() == 0, "the queue to be empty", within_s=60)
        assert running.version == postfix._package.version
    assert sink.stop()["messages"] == 5


def test_system_configuration_is_not_touched(peer: Peer, directory: Path, sink: RunningSink) -> None:
    before = _system()
    with peer.start(_options(directory, sink)) as running:
        _send(running.port, 1)
        _wait_for(sink, 1)
        assert _system() == before
    assert _system() == before


def _system() -> dict[str, int]:
    """Everything in /etc that a mail server could have changed, and its places in /var, with their times."""
    found = {}
    for top in ("/etc", "/var/spool", "/var/lib/opensmtpd", "/usr/sbin"):
        for path in [Path(top), *Path(top).glob("*"), *Path(top).glob("postfix/*"), *Path(top).glob("exim4/*")]:
            with contextlib.suppress(OSError):
                found[str(path)] = path.stat().st_mtime_ns
    return found


def test_queue_in_memory_is_refused(peer: Peer) -> None:
    path = Path(mkdtemp(prefix="postroika-peer-", dir="/dev/shm"))
    try:
        with pytest.raises(PostroikaError, match="is in memory, where a sync costs nothing"):
            peer.start(PeerOptions(directory=path, suspended=True))
    finally:
        shutil.rmtree(path)


@pytest.mark.parametrize("name", ["own", "postfix"])
def test_driver_tells_what_came(name: str) -> None:
    driver = drivers()[name]
    _need(driver.missing())
    with driver.sink(SinkSettings()) as sink:
        sent = driver.load(LoadSettings(target=f"127.0.0.1:{sink.port}", sessions=4, messages=100, size="2000"))
        assert (sent.messages, sent.recipients, sent.bytes, sent.complete) == (100, 100, 200_000, True)
        wait_until(lambda: sink.status()["messages"] == 100, "the messages in the status")
        counts = sink.stop()
        assert counts == sink.stop() == sink.status()
        assert counts["messages"] == 100
        # smtp-source may be done before the last of its sessions is open.
        assert counts["sessions"] == 4 if name == "own" else 1 <= counts["sessions"] <= 4
        assert sent.started_at < counts["first_at"] <= counts["last_at"] < time.monotonic()
        assert counts["timeline"][-1][1] == 100
        assert counts["cpu_s"] > 0
        assert sink.cpu_s() > counts["cpu_s"]
    assert not accepts("127.0.0.1", sink.port)


def test_driver_refuses_what_its_tools_cannot_do() -> None:
    _need(_DRIVER.missing())
    with pytest.raises(PostroikaError, match="smtp-source cannot do bdat=True"):
        _DRIVER.load(LoadSettings(target="127.0.0.1:9", bdat=True))
    with pytest.raises(PostroikaError, match="smtp-source sends a number of messages of one size"):
        _DRIVER.load(LoadSettings(target="127.0.0.1:9", size="4k:70,100k:30"))
    with pytest.raises(PostroikaError, match="smtp-sink cannot do greylist=True"):
        _DRIVER.sink(SinkSettings(greylist=True))


def test_refused_mail_fails_the_load() -> None:
    _need(_DRIVER.missing())
    own = drivers()["own"]
    with own.sink(SinkSettings(refuse=("*",))) as sink:
        with pytest.raises(PostroikaError, match=r"smtp-source .* failed"):
            _DRIVER.load(LoadSettings(target=f"127.0.0.1:{sink.port}", messages=1))
        sent = own.load(LoadSettings(target=f"127.0.0.1:{sink.port}", sessions=1, messages=3))
        assert (sent.messages, sent.failed, sent.complete) == (0, 3, False)
        assert sink.stop()["refused"] == 4
