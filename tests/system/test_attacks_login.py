"""Guessing: which accounts there are, and what their passwords are. docs/attacks.md has the table of all attacks.

Times are compared by rank and in pairs, tried one right after the other in an order that is drawn by lot: whatever else
the machine does strikes both halves of a pair alike. A difference is one that three runs in a row find, each with the
same sign: a run that finds one where there is none happens now and then, three of them do not, and so a run may look
closely.
"""

from __future__ import annotations

import math
import random
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import argon2
import pytest

from postroika.policy.passwords import hash_of
from postroika.smtp.scram import keys_of
from tests.system.naive_server import Fault, naive_server
from tests.system.process import free_port
from tests.system.server import Dialogue, Postroika

PASSWORD = "correct horse"
IN, WRONG = "235 2.7.0 authentication succeeded", "535 5.7.8 authentication credentials are invalid"
LOCKED = "454 4.7.0 too many failed logins, please try again later"
# That one run finds a difference where there is none; three in a row with the same sign: 2.5e-10.
ALPHA = 1e-3
RUNS = 3


def plain(name: str, password: str, acts_for: str = "") -> str:
    return "AUTH PLAIN " + b64encode(f"{acts_for}\0{name}\0{password}".encode()).decode()


class World:
    """A submission server in the clear that lets everybody guess; hashes that cost little, so that all else is seen."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.cheap, self.dear = free_port(), free_port()
        for name, port in (("cheap", self.cheap), ("dear", self.dear)):
            (path / name).mkdir()
            server = Postroika(
                path / name,
                f'[[listener]]\naddress = "127.0.0.1:{port}"\nrole = "submission"\nauth_without_tls = true\n'
                '[accounts]\nfile = "accounts.toml"\nfailure_delay_s = 0\nfailures_per_session = 1000000\n'
                "failures_per_ip = 1000000\nfailures_per_account = 1000000\n",
                workers=1,
            )
            write_accounts(path / name, CHEAP.hash if name == "cheap" else hash_of)
            stack.enter_context(server)


CHEAP = argon2.PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def write_accounts(path: Path, hashed: Callable[[str], str]) -> None:
    """Ann and Bob, and one that is disabled."""
    entries = (
        f'[[account]]\nname = "{name}@shop.test"\npassword = "{hashed(PASSWORD)}"\n'
        f'scram = "{keys_of(PASSWORD, iterations=4096).text()}"\ndisabled = {str(name == "off").lower()}\n'
        for name in ("ann", "bob", "off")
    )
    file = path / "accounts.toml"
    file.write_text("".join(entries))
    file.chmod(0o600)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


# --- times


def score(differences: list[float]) -> float:
    """How far such differences are from those between things that do not differ: Wilcoxon's signed-rank test, whose
    statistic is then normal with mean 0 and variance 1."""
    ranked = sorted((abs(difference), difference) for difference in differences if difference)
    count = len(ranked)
    positive = sum(rank for rank, (_, difference) in enumerate(ranked, 1) if difference > 0)
    mean, variance = count * (count + 1) / 4, count * (count + 1) * (2 * count + 1) / 24
    return (positive - mean) / math.sqrt(variance)


Try = Callable[[Dialogue, str], float]


def try_plain(client: Dialogue, name: str) -> float:
    """How long the answer to a wrong password takes, in seconds."""
    line = plain(name, f"wrong{random.randrange(10**6):06}")
    begin = time.perf_counter()
    assert client.say(line).startswith("535")
    return time.perf_counter() - begin


def try_login(client: Dialogue, name: str) -> float:
    password = b64encode(f"wrong{random.randrange(10**6):06}".encode())
    begin = time.perf_counter()
    assert client.say("AUTH LOGIN").startswith("334")
    assert client.say(b64encode(name.encode())).startswith("334")
    assert client.say(password).startswith("535")
    return time.perf_counter() - begin


def try_scram(client: Dialogue, name: str) -> float:
    """From the name to the answer to a proof that is wrong."""
    first = b"AUTH SCRAM-SHA-256 " + b64encode(f"n,,n={name},r={random.randrange(10**12):012}".encode())
    proof = b64encode(random.randbytes(32)).decode()
    begin = time.perf_counter()
    nonce = b64decode(client.say(first)[4:]).decode().partition(",")[0]
    assert client.say(b64encode(f"c=biws,{nonce},p={proof}".encode())).startswith("535")
    return time.perf_counter() - begin


def time_pairs(port: int, one: str, other: str, pairs: int, how: Try = try_plain) -> list[float]:
    """How much longer a wrong password for `one` takes than one for `other`, in seconds, so many times."""
    differences = []
    with Dialogue(port, "time.test") as client:
        for number in range(pairs + 20):
            took = {name: how(client, name) for name in random.sample((one, other), 2)}
            if number >= 20:  # after some for warming up
                differences.append(took[one] - took[other])
    return differences


def differ(port: int, one: str, other: str, pairs: int, how: Try = try_plain) -> list[float]:
    """The scores of the runs, if all of them find the same difference; else []."""
    scores: list[float] = []
    while len(scores) < RUNS:
        scores.append(score(time_pairs(port, one, other, pairs, how)))
        if math.erfc(abs(scores[-1]) / math.sqrt(2)) > ALPHA or scores[0] * scores[-1] < 0:
            return []
    return scores


def test_difference_would_be_found() -> None:
    with naive_server(Fault.HASTY, passwords={"ann@shop.test": PASSWORD}) as naive:
        assert len(differ(naive.port, "ann@shop.test", "eve@shop.test", 500)) == RUNS
    with naive_server(passwords={"ann@shop.test": PASSWORD}) as honest:
        assert differ(honest.port, "ann@shop.test", "eve@shop.test", 500) == []


def test_small_difference_is_found_in_a_noise_that_is_larger() -> None:
    """How sharp one run is: a fifth of the spread is seen nearly always; what is none, hardly ever."""
    rng = random.Random(8)

    def found(shift: float) -> int:
        runs = ([rng.gauss(shift, 1) for _ in range(500)] for _ in range(200))
        return sum(math.erfc(abs(score(run)) / math.sqrt(2)) < ALPHA for run in runs)

    assert found(0.2) > 160
    assert found(0.0) <= 3


@pytest.mark.parametrize("how", [try_plain, try_login, try_scram])
@pytest.mark.parametrize(
    ("one", "other"),
    [("ann@shop.test", "eve@shop.test"), ("ann@shop.test", "off@shop.test"), ("off@shop.test", "eve@shop.test")],
)
def test_unknown_and_disabled_names_and_wrong_passwords_take_the_same_time(
    world: World, one: str, other: str, how: Try
) -> None:
    """1,000 tries."""
    assert differ(world.cheap, one, other, 500, how) == []


def test_they_do_with_hashes_of_the_usual_cost_too(world: World) -> None:
    assert differ(world.dear, "ann@shop.test", "eve@shop.test", 60) == []


# --- words


def answers(port: int, name: str) -> list[str]:
    """What is said to somebody who claims to be `name` and does not know the password."""
    said = []
    with Dialogue(port, "words.test") as client:
        said.append(client.say(plain(name, "wrong")))
        said += [client.say("AUTH LOGIN"), client.say(b64encode(name.encode())), client.say(b64encode(b"wrong"))]
        said.append(client.say(plain(name, PASSWORD, "nobody")))
        for _ in range(2):
            first = client.say(b"AUTH SCRAM-SHA-256 " + b64encode(f"n,,n={name},r=abc".encode()))
            fields = b64decode(first[4:]).decode().split(",")
            said += [fields[1], fields[2], str(len(fields[0]))]
            proof = b64encode(bytes(32)).decode()
            said.append(client.say(b64encode(f"c=biws,{fields[0]},p={proof}".encode())))
    return said


def test_nothing_that_is_said_tells_which_names_there_are(world: World) -> None:
    names = ["ann@shop.test", "bob@shop.test", "off@shop.test", "eve@shop.test", "root", "ANN@shop.test.", "x" * 200]
    heard = {name: answers(world.cheap, name) for name in names}
    salts = {name: said[5] for name, said in heard.items()}
    assert len(set(salts.values())) == len(names)  # each has its own …
    assert len({len(salt) for salt in salts.values()}) == 1  # … and all look alike
    for name, said in heard.items():
        assert said[5] == said[9] == answers(world.cheap, name)[5]  # and stay as they are
        assert [word for word in said if not word.startswith("s=")] == [
            word for word in heard["ann@shop.test"] if not word.startswith("s=")
        ]


# --- guesses

GUESSES = [*(f"guess-{number}" for number in range(200)), PASSWORD]


def guess(port: int, name: str, guesses: list[str], source: str = "") -> tuple[str, int]:
    """Try passwords on as many connections as it takes: the one that was right, and how many were answered."""
    answered = 0
    left = list(guesses)
    while left:
        with Dialogue(port, "guess.test", source=source) as client:
            before = len(left)
            while left:
                reply = client.say(plain(name, left[0]))
                if reply.startswith("235"):
                    return left[0], answered + 1
                if not reply.startswith(("535", "421")):
                    return "", answered
                answered += 1
                del left[0]
                if reply.startswith("421"):
                    break
            assert len(left) < before
    return "", answered


def test_naive_server_lets_everybody_guess_for_ever() -> None:
    with naive_server(Fault.PATIENT, passwords={"ann@shop.test": PASSWORD}) as naive:
        assert guess(naive.port, "ann@shop.test", GUESSES) == (PASSWORD, len(GUESSES))


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[int]:
    """The port of a server that locks out."""
    port = free_port()
    server = Postroika(
        tmp_path,
        f'[[listener]]\naddress = "127.0.0.1:{port}"\nrole = "submission"\nauth_without_tls = true\n'
        '[accounts]\nfile = "accounts.toml"\nfailure_delay_s = 0.01\nfailures_per_ip = 5\nfailures_per_session = 3\n'
        "failures_per_account = 12\n",
        workers=1,
    )
    write_accounts(tmp_path, CHEAP.hash)
    with server:
        yield port
        lines = server.wait_for_events(5, "auth_failed")
        assert any(event["reason"].endswith("; locked out") for event in lines)


def test_address_that_guesses_is_locked_out(guarded: int) -> None:
    # The owner has logged in from here lately, and others are elsewhere.
    assert guess(guarded, "ann@shop.test", [PASSWORD], "127.0.0.9") == (PASSWORD, 1)
    found, answered = guess(guarded, "ann@shop.test", GUESSES, "127.0.0.2")
    assert (found, answered) in {
        ("", 5),
        ("", 6),
    }  # 421, at the end of a session, does not say whether it was looked at
    # Not even the right password helps, with that account or another one, nor is a name that there is not told apart.
    for name in ("ann@shop.test", "bob@shop.test", "eve@shop.test"):
        with Dialogue(guarded, "guess.test", source="127.0.0.2") as client:
            assert client.say(plain(name, PASSWORD)) == LOCKED
    for source in ("127.0.0.3", "127.0.0.9"):
        assert guess(guarded, "bob@shop.test", [PASSWORD], source) == (PASSWORD, 1)


def test_account_that_many_addresses_guess_at_is_locked_for_strangers(guarded: int) -> None:
    """And a name that nobody has is locked after as many."""
    assert guess(guarded, "ann@shop.test", [PASSWORD], "127.0.0.9") == (PASSWORD, 1)
    for name, net in (("ann@shop.test", 1), ("eve@shop.test", 2)):
        tried = sum(guess(guarded, name, GUESSES[:4], f"127.0.{net}.{number}")[1] for number in range(1, 6))
        assert 12 <= tried <= 15
        with Dialogue(guarded, "guess.test", source=f"127.0.{net}.77") as client:
            assert client.say(plain(name, PASSWORD)) == LOCKED
    # Its owner comes in all the same, and others are not concerned.
    assert guess(guarded, "ann@shop.test", [PASSWORD], "127.0.0.9") == (PASSWORD, 1)
    assert guess(guarded, "bob@shop.test", [PASSWORD], "127.0.1.99") == (PASSWORD, 1)


def test_one_account_of_ones_own_buys_no_guesses(guarded: int) -> None:
    """Who logs in between his guesses at others is locked out for them as anybody is."""
    answered = 0
    for number in range(8):
        assert guess(guarded, "bob@shop.test", [PASSWORD], "127.0.0.5") == (PASSWORD, 1)
        answered += guess(guarded, "ann@shop.test", [f"guess-{number}"], "127.0.0.5")[1]
    assert answered == 5
