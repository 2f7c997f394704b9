"""Hashes of passwords: argon2id.

Promise: comparing a password takes as long whatever the outcome, and lets other threads go on (libargon2 works without
the interpreter's lock). It must not be called on the loop.
Source: RFC 9106; the parameters are those of the OWASP password storage cheat sheet.
"""

from __future__ import annotations

import collections
import secrets
from collections.abc import Iterable

import argon2
from argon2.exceptions import HashingError, InvalidHashError, VerificationError

TIME_COST = 2
MEMORY_KIB = 19_456
LANES = 1
_hasher = argon2.PasswordHasher(time_cost=TIME_COST, memory_cost=MEMORY_KIB, parallelism=LANES)


def hash_of(password: str) -> str:
    """A new hash, with a salt of its own. Takes about 40 ms."""
    return _hasher.hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Whether it is the hash of this password. Takes about 40 ms, whatever the answer."""
    try:
        return _hasher.verify(password_hash, password)
    except (VerificationError, InvalidHashError):
        return False


def hash_of_nothing(like: Iterable[str]) -> str:
    """A hash that no password has, with the parameters that most of `like` have: checking a password against it takes
    as long as against one of them.

    Raises:
        ValueError: no hash can be computed with them.
    """
    parameters = [argon2.extract_parameters(password_hash) for password_hash in like]
    costs = [(p.memory_cost, p.time_cost, p.parallelism) for p in parameters]
    hasher = _hasher
    if costs:
        usual = collections.Counter(costs).most_common(1)[0][0]
        hasher = argon2.PasswordHasher.from_parameters(parameters[costs.index(usual)])
    try:
        return hasher.hash(secrets.token_bytes(32))
    except HashingError as error:  # such as for more memory than there is
        raise ValueError(f"no password can be checked against the hashes of most accounts: {error}") from None
