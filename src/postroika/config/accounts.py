"""Finds what is wrong with accounts, in the config file and in the file of accounts alike."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from postroika.config.addresses import canonical_domain
from postroika.config.sections_inbound import Account

_BASE64 = r"[A-Za-z0-9+/]+={0,2}"
# The PHC string format, with the parameters in the order in which libargon2 writes them.
_ARGON2ID = re.compile(rf"\$argon2id\$v=19\$m=(\d{{1,10}}),t=(\d{{1,10}}),p=(\d{{1,10}})\$({_BASE64})\$({_BASE64})")
_MIN_SALT_CHARS, _MIN_HASH_CHARS = 11, 6  # of base64: libargon2 takes no less than 8 and 4 octets
_SCRAM = re.compile(rf"SCRAM-SHA-256\$\d{{4,8}}:{_BASE64}\${_BASE64}:{_BASE64}")
# What one try at a password may cost: some 256 MiB for about a second. The second choice of RFC 9106 (64 MiB, 3 passes)
# and the defaults of libraries that hashes come from are well below: PHP 64 MiB and 4, Django 100 MiB and 2, 8 lanes.
MAX_ARGON2_MIB = 256
MAX_ARGON2_MIB_OF_ALL_PASSES = 1024
MAX_ARGON2_LANES = 16  # a thread each
# RFC 5321 §4.1.2, Dot-string and Quoted-string, as far as it takes to find what is meant for something else.
_LOCAL_PART = re.compile(r'[^\s"(),:;<>@\[\\\]]+|".*"')
MAX_NAME_CHARS = 255
MAX_TENANT_CHARS = 100


def account_problems(accounts: Sequence[Account]) -> Iterator[tuple[str, str]]:
    """(key, problem) of each value that cannot be meant, keys as "account[0].name"."""
    taken: dict[str, int] = {}
    for i, account in enumerate(accounts):
        name = account.name.lower()
        if not account.name.isprintable() or account.name != account.name.strip() or len(name) > MAX_NAME_CHARS:
            yield f"account[{i}].name", f"{account.name!r} is not a name"
        elif taken.setdefault(name, i) != i:
            yield f"account[{i}].name", f"{account.name!r} is the name of account[{taken[name]}] already"
        # Neither the value of a hash nor a password that stands there by mistake may get into a log.
        if account.password and (problem := _hash_problem(account.password.reveal())) is not None:
            yield f"account[{i}].password", problem
        if account.scram and not _SCRAM.fullmatch(account.scram.reveal()):
            yield f"account[{i}].scram", "is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey"
        if not account.tenant.isprintable() or len(account.tenant) > MAX_TENANT_CHARS:
            yield f"account[{i}].tenant", f"has to be visible, and of at most {MAX_TENANT_CHARS} characters"
        if not account.senders and "@" not in account.name:
            yield f"account[{i}].senders", f"is needed: the name {account.name!r} is not an address"
        for key in ("senders", "from_addresses"):
            for j, pattern in enumerate(getattr(account, key)):
                if (problem := _pattern_problem(pattern)) is not None:
                    yield f"account[{i}].{key}[{j}]", problem


def _hash_problem(text: str) -> str | None:
    """Why no password is to be checked against this hash: libargon2 could not, or anybody who tries to log in would
    have us spend too much on it."""
    none = "is not an argon2id hash; `postroika account` makes one"
    found = _ARGON2ID.fullmatch(text)
    if found is None:
        return none
    memory_kib, passes, lanes = (int(number) for number in found.group(1, 2, 3))
    salt, tag = (part.rstrip("=") for part in found.group(4, 5))
    if len(salt) < _MIN_SALT_CHARS or len(tag) < _MIN_HASH_CHARS or 1 in {len(salt) % 4, len(tag) % 4}:
        return none
    if passes <= 0 or lanes <= 0 or memory_kib < 8 * lanes:
        return none
    if (
        memory_kib > MAX_ARGON2_MIB * 1024
        or memory_kib * passes > MAX_ARGON2_MIB_OF_ALL_PASSES * 1024
        or lanes > MAX_ARGON2_LANES
    ):
        return (
            f"costs too much (m={memory_kib},t={passes},p={lanes}): at most {MAX_ARGON2_MIB} MiB, "
            f"{MAX_ARGON2_MIB_OF_ALL_PASSES} MiB times passes, and {MAX_ARGON2_LANES} lanes; take it out, and give the "
            "account another password with `postroika account passwd`"
        )
    return None


def exposed_hashes(path: Path, accounts: Sequence[Account]) -> str:
    """That everybody may read the hashes in the config file, and what to do about it; "" if all is well.

    Args:
        path: of the config file.
        accounts: those that stand in it.
    """
    if not any(account.password or account.scram for account in accounts):
        return ""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""  # it is not there any more
    if not mode & stat.S_IROTH:
        return ""
    return (
        f"{path} has hashes of passwords ([[account]]), and may be read by everybody (mode {mode:04o}): chmod o-rwx, "
        f"or move them to accounts.file"
    )


def _pattern_problem(pattern: str) -> str | None:
    if pattern == "*":
        return None
    local, at, domain = pattern.rpartition("@")
    if not at or (local and (domain.startswith(".") or not _LOCAL_PART.fullmatch(local))):
        return f'{pattern!r} is not an address, "@domain", "@.domain" or "*"'
    try:
        canonical_domain(domain)
    except ValueError as error:
        return str(error)
    return None
