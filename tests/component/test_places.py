"""process.places: directories are made private, and what is somebody else's is refused. System tests do it as root."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from postroika.config import Config, Log, Server
from postroika.errors import PostroikaError
from postroika.process import places
from postroika.process.identity import user_name

ME = user_name(os.geteuid())
NOBODY = 65534


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        server=Server(spool=str(tmp_path / "var/spool"), control=str(tmp_path / "var/control.sock")),
        log=Log(events=str(tmp_path / "var/log/events.jsonl")),
    )


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_are_made_and_private(config: Config, tmp_path: Path) -> None:
    places.make(config, None)
    assert {path.name: mode(path) for path in (tmp_path / "var").rglob("*")} == {"spool": 0o700, "log": 0o700}
    places.make(config, None)
    places.check_owners(config, os.geteuid())
    places.check_reach(config)


def test_spool_that_is_open_to_others_is_closed(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    places.make(config, None)
    spool = tmp_path / "var/spool"
    spool.chmod(0o755)
    places.check_owners(config, os.geteuid())
    assert mode(spool) == 0o700
    assert caplog.messages == [f"{spool} had the mode 0755 and is private now"]


@pytest.mark.parametrize("name", ["", ".supervisor.lock", ".shard-00.lock", "shard-00", "shard-00/data.mdb"])
def test_foreign_file_of_the_spool_is_named_with_the_mend(
    config: Config, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.make(config, None)
    spool = tmp_path / "var/spool"
    (spool / "shard-00").mkdir()
    for file in (".supervisor.lock", ".shard-00.lock", "shard-00/data.mdb"):
        (spool / file).touch()
    foreign = spool / name
    _give_away(monkeypatch, foreign)
    with pytest.raises(PostroikaError) as caught:
        places.check_owners(config, os.geteuid())
    assert str(caught.value) == (
        f"{foreign} belongs to {user_name(NOBODY)}, and the server runs as {ME}: chown -R {ME}: {spool}"
    )


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.lock"])
def test_foreign_event_log_is_refused(
    config: Config, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places.make(config, None)
    log = tmp_path / "var/log" / name
    log.touch(0o600)
    _give_away(monkeypatch, log)
    with pytest.raises(PostroikaError) as caught:
        places.check_owners(config, os.geteuid())
    assert str(caught.value) == f"{log} belongs to {user_name(NOBODY)}, and the server runs as {ME}: chown {ME}: {log}"


def test_event_log_that_everybody_may_read_is_told(
    config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    places.make(config, None)
    log = tmp_path / "var/log/events.jsonl"
    log.touch()
    log.chmod(0o644)
    places.check_owners(config, os.geteuid())
    assert caplog.messages == [f"{log} holds addresses, and everybody may read it: chmod o-rwx"]
    assert mode(log) == 0o644


def test_log_that_is_no_file_is_nobodys(config: Config) -> None:
    config = Config(server=config.server, log=Log(events="/dev/null"))
    places.make(config, None)
    places.check_owners(config, os.geteuid())


def test_a_file_in_the_way_is_named(config: Config, tmp_path: Path) -> None:
    (tmp_path / "var").write_text("")
    with pytest.raises(PostroikaError, match=r"/var/(spool|log) cannot be made: Not a directory"):
        places.make(config, None)


def _give_away(monkeypatch: pytest.MonkeyPatch, foreign: Path) -> None:
    """Let `foreign` seem to be nobody's: only root could really give it away."""
    real_stat, real_lstat = Path.stat, Path.lstat

    def seen(status: os.stat_result) -> os.stat_result:
        fields = list(status)
        fields[stat.ST_UID] = NOBODY
        return os.stat_result(fields)

    monkeypatch.setattr(
        Path, "stat", lambda self, **how: seen(real_stat(self, **how)) if self == foreign else real_stat(self, **how)
    )
    monkeypatch.setattr(Path, "lstat", lambda self: seen(real_lstat(self)) if self == foreign else real_lstat(self))
