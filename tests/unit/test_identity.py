"""process.identity: whom the config means, and who may start the server. That rights are gone is a system test."""

from __future__ import annotations

import grp
import os
import pwd

import pytest

from postroika.config import Process
from postroika.errors import ConfigError
from postroika.process import identity
from postroika.process.identity import Identity

_USERS = {
    "root": pwd.struct_passwd(("root", "x", 0, 0, "", "/root", "/bin/sh")),
    "postroika": pwd.struct_passwd(("postroika", "x", 990, 980, "", "/var/lib/postroika", "/bin/false")),
    "wheel": pwd.struct_passwd(("wheel", "x", 991, 0, "", "", "/bin/false")),
}
_GROUPS = {name: grp.struct_group((name, "x", gid, [])) for name, gid in (("root", 0), ("postroika", 980), ("mail", 8))}
POSTROIKA = Identity(990, 980, "postroika", "postroika", "/var/lib/postroika")


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pwd, "getpwnam", _USERS.__getitem__)
    monkeypatch.setattr(pwd, "getpwuid", {user.pw_uid: user for user in _USERS.values()}.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", _GROUPS.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", {group.gr_gid: group for group in _GROUPS.values()}.__getitem__)


def started_by(monkeypatch: pytest.MonkeyPatch, uid: int, *, gid: int | None = None, saved: int | None = None) -> None:
    gid = uid if gid is None else gid
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: gid)
    monkeypatch.setattr(os, "getresuid", lambda: (uid, uid, uid if saved is None else saved))
    monkeypatch.setattr(os, "getresgid", lambda: (gid,) * 3)


@pytest.mark.parametrize(
    ("process", "expected"),
    [
        (Process(), None),
        (Process(user="postroika"), POSTROIKA),
        (Process(user="990"), POSTROIKA),
        (Process(user="postroika", group="mail"), POSTROIKA._replace(gid=8, group="mail")),
        (Process(user="postroika", group="8"), POSTROIKA._replace(gid=8, group="mail")),
        (Process(user="10001", group="10002"), Identity(10001, 10002, "10001", "10002", "/")),
        (Process(user="wheel", group="mail"), Identity(991, 8, "wheel", "mail", "/")),
        (Process(user="root"), Identity(0, 0, "root", "root", "/root")),
        (Process(user="0"), Identity(0, 0, "root", "root", "/root")),
    ],
)
def test_user_and_group_by_name_or_number(process: Process, expected: Identity | None) -> None:
    assert identity.look_up(process) == expected


@pytest.mark.parametrize(
    ("process", "problem"),
    [
        (Process(user="nobody-here"), "process.user: there is no user 'nobody-here'"),
        (Process(user="-1"), "process.user: there is no user '-1'"),
        (Process(user="postroika", group="none"), "process.group: there is no group 'none'"),
        (
            Process(user="10001"),
            "process.group: user 10001 has no entry that says its group, so it must be given",
        ),
        (Process(user="wheel"), "process.group: root's group is for root, and no other is"),
        (Process(user="postroika", group="0"), "process.group: root's group is for root, and no other is"),
        (Process(user="root", group="mail"), "process.group: root's group is for root, and no other is"),
    ],
)
def test_user_or_group_that_cannot_be_meant(process: Process, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        identity.look_up(process)
    assert str(caught.value) == problem


def test_root_becomes_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, 0)
    assert identity.to_assume(Process(user="postroika")) == POSTROIKA


def test_root_stays_root_only_if_the_config_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, 0)
    assert identity.to_assume(Process(user="root")) is None
    with pytest.raises(ConfigError) as caught:
        identity.to_assume(Process())
    assert str(caught.value) == (
        'process.user: root has started the server, and the config names nobody to run as: write user = "postroika" '
        "below [process] (`useradd --system --user-group --shell /usr/sbin/nologin postroika` makes that user), or "
        'user = "root" to try things out as root'
    )


@pytest.mark.parametrize("process", [Process(), Process(user="postroika"), Process(user="990", group="postroika")])
def test_the_user_itself_may_start_the_server(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    started_by(monkeypatch, 990, gid=980)
    assert identity.to_assume(process) is None


@pytest.mark.parametrize("process", [Process(user="root"), Process(user="991", group="mail")])
def test_others_cannot_become_the_user(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    started_by(monkeypatch, 990, gid=980)
    with pytest.raises(ConfigError, match="postroika has started the server and cannot become "):
        identity.to_assume(process)


def test_user_in_another_group_than_the_config_says(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, 990, gid=980)
    with pytest.raises(ConfigError, match="cannot become postroika:mail"):
        identity.to_assume(Process(user="postroika", group="mail"))


@pytest.mark.parametrize("process", [Process(), Process(user="postroika")])
def test_a_way_back_to_root_is_refused(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    started_by(monkeypatch, 990, gid=980, saved=0)
    with pytest.raises(ConfigError):
        identity.to_assume(process)


@pytest.mark.parametrize("process", [Process(), Process(user="postroika")])
def test_a_worker_does_not_run_as_root(monkeypatch: pytest.MonkeyPatch, process: Process) -> None:
    started_by(monkeypatch, 0)
    with pytest.raises(ConfigError, match="a worker was started as root, which the config does not say"):
        identity.refuse_root(process)
    started_by(monkeypatch, 990, gid=980, saved=0)
    with pytest.raises(ConfigError, match="a worker was started as root"):
        identity.refuse_root(process)


def test_a_worker_runs_as_who_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by(monkeypatch, 0)
    identity.refuse_root(Process(user="root"))
    started_by(monkeypatch, 990, gid=980)
    identity.refuse_root(Process(user="postroika"))
    identity.refuse_root(Process())
