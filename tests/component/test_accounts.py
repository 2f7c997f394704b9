"""policy.accounts: the same work whoever is asked for, a bounded queue, and a file that is read again."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from postroika import config
from postroika.errors import ConfigError
from postroika.policy import account_file, accounts
from postroika.policy.account_file import AccountFile
from postroika.policy.accounts import Accounts, BusyError
from postroika.policy.limits import Rate
from postroika.smtp.scram import keys_of

HASHES = {
    password: f"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA${i:022d}" for i, password in enumerate(["one", "two"])
}
KEYS = keys_of("one", iterations=4096)


def entry(name: str, password: str = "one", **settings: object) -> config.Account:
    return config.Account(name=name, password=config.Secret(HASHES[password]), **settings)  # type: ignore[arg-type]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What has been compared: (hash, password). A hash matches as HASHES says."""
    seen: list[tuple[str, str]] = []

    def matches(stored: str, password: str) -> bool:
        seen.append((stored, password))
        return HASHES.get(password) == stored

    monkeypatch.setattr(accounts, "matches", matches)
    monkeypatch.setattr(accounts, "hash_of_nothing", lambda like: f"nothing like {len(list(like))}")
    return seen


async def test_one_hash_is_computed_whoever_is_asked_for(checked: list[tuple[str, str]]) -> None:
    without = config.Account(name="no@shop.example")
    found = Accounts([entry("ann@shop.example"), entry("off@shop.example", disabled=True), without], None)
    ann = found.usable("ann@shop.example")
    assert ann is not None
    assert await found.check("ann@shop.example", "one") is ann
    assert await found.check("ann@shop.example", "two") is None
    assert await found.check("nobody", "one") is None
    assert await found.check("off@shop.example", "one") is None
    assert await found.check("no@shop.example", "one") is None
    assert checked == [
        (HASHES["one"], "one"),
        (HASHES["one"], "two"),
        ("nothing like 2", "one"),
        (HASHES["one"], "one"),
        ("nothing like 2", "one"),
    ]


async def test_queue_of_passwords_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, two_at_once, lock = threading.Event(), threading.Barrier(2), threading.Lock()
    running, most = [0], [0]

    def matches(_stored: str, _password: str) -> bool:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        gate.wait()
        two_at_once.wait(20)
        with lock:
            running[0] -= 1
        return True

    monkeypatch.setattr(accounts, "matches", matches)
    found = Accounts([entry("ann@shop.example")], None, threads=2)
    answers: list[object] = []

    async def check() -> None:
        answers.append(await found.check("ann@shop.example", "one"))

    async with trio.open_nursery() as nursery:
        for _ in range(32):
            nursery.start_soon(check)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BusyError):
            await found.check("ann@shop.example", "one")
        gate.set()
    assert (len(answers), most[0]) == (32, 2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check)
        nursery.start_soon(check)


def test_limits_are_shared_among_workers() -> None:
    found = Accounts(
        [entry("ann@shop.example", max_connections=5, recipients_per_minute=1, recipients_per_day=9)], None, workers=4
    )
    ann = found.usable("ann@shop.example")
    assert ann is not None
    assert (ann.max_connections, ann.rates) == (2, (Rate(1, 60.0), Rate(3, 86_400.0)))


def test_keys_of_nobody_look_like_keys() -> None:
    found = Accounts(
        [config.Account(name="ann@shop.example", scram=config.Secret(KEYS.text())), entry("bob@shop.example")], None
    )
    assert found.keys("ann@shop.example") == KEYS
    bob, nobody = found.keys("bob@shop.example"), found.keys("nobody")
    assert bob.salt == found.keys("bob@shop.example").salt
    assert nobody.salt == found.keys("nobody").salt
    assert len({bob.salt, nobody.salt, KEYS.salt}) == 3
    # What a client sees of them is what it sees of those that most accounts have.
    assert (bob.iterations, nobody.iterations) == (KEYS.iterations, KEYS.iterations)
    assert len(bob.salt) == len(nobody.salt) == len(KEYS.salt)


def test_keys_of_nobody_are_like_those_of_most() -> None:
    """Keys that were made elsewhere, with other iterations and salts than ours, show no more than ours."""
    foreign = keys_of("one", salt=b"x" * 24, iterations=5000).text()
    entries = [config.Account(name=f"{n}@shop.example", scram=config.Secret(foreign)) for n in range(2)]
    found = Accounts([*entries, config.Account(name="ann@shop.example", scram=config.Secret(KEYS.text()))], None)
    nobody = found.keys("nobody")
    assert (nobody.iterations, len(nobody.salt)) == (5000, 24)
    assert nobody.salt == found.keys("nobody").salt


async def test_file_is_read_again_when_it_changes(
    tmp_path: Path, checked: list[tuple[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "accounts.toml"
    found = Accounts([entry("ann@shop.example")], path)
    caplog.set_level(logging.INFO)

    async def after(content: AccountFile | str) -> list[str]:
        caplog.clear()
        if isinstance(content, str):
            path.write_text(content)
        else:
            account_file.write(path, content)
        await found.refresh()
        return sorted(name for name in ("ann@shop.example", "bob@shop.example") if found.usable(name) is not None)

    both = ["ann@shop.example", "bob@shop.example"]
    assert await after(AccountFile(account=(entry("Bob@shop.example"),))) == both
    assert await found.check("bob@shop.example", "one") is not None
    assert await after(AccountFile(account=(entry("bob@shop.example", "two"),))) == both
    assert await found.check("bob@shop.example", "one") is None
    assert await after(AccountFile(account=(entry("bob@shop.example", disabled=True),))) == ["ann@shop.example"]
    assert (found.exists("bob@shop.example"), caplog.messages) == (True, ["2 accounts"])
    # What cannot be used changes nothing.
    costly = HASHES["one"].replace("m=8,t=1", "m=2097152,t=1")
    for broken in (
        "[account",
        "[[account]]\nname = 'Ann@shop.example'\n",
        f"[[account]]\nname = 'bob@shop.example'\npassword = '{costly}'\n",
    ):
        assert await after(broken) == ["ann@shop.example"]
        assert [message.partition(": ")[0] for message in caplog.messages] == ["the accounts stay as they were"]
        assert found.exists("bob@shop.example")
    path.unlink()
    await found.refresh()
    assert found.exists("bob@shop.example")
    assert await after(AccountFile()) == ["ann@shop.example"]
    assert not found.exists("bob@shop.example")
    caplog.clear()
    await found.refresh()
    assert caplog.messages == []


async def test_file_is_looked_at_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    found = Accounts([], tmp_path / "accounts.toml")
    looks: list[float] = []

    async def refresh() -> None:
        looks.append(trio.current_time())

    monkeypatch.setattr(found, "refresh", refresh)
    with trio.move_on_after(10):
        await found.watch()
    assert len(looks) >= 4
    await Accounts([], None).watch()


def test_file_that_cannot_be_used_refuses_the_start(tmp_path: Path) -> None:
    path = tmp_path / "accounts.toml"
    path.write_text("")
    path.chmod(0o644)
    with pytest.raises(ConfigError):
        Accounts([], path)
    account_file.write(path, AccountFile(account=(entry("ann@shop.example"),)))
    with pytest.raises(ConfigError, match="is there twice"):
        Accounts([entry("Ann@shop.example")], path)
