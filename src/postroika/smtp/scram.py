"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS as a server sees them: the password itself is never sent, nor known to us.

Promise: as `sasl`. A proof is compared in constant time, and an account without keys (a name that nobody has) runs
through the same steps and the same arithmetic as any other. Who could bind the exchange to its TLS connection and was
made to believe that we cannot (flag "y") is refused.
Source: RFC 5802, RFC 7677; RFC 5929 for channel bindings; RFC 5803 for the way in which keys are written down.
"""

from __future__ import annotations

import binascii
import collections
import hashlib
import hmac
import secrets
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from postroika.smtp.sasl import Challenge, Failed, FindKeys, Proven, Step, Succeeded, account_name, prepared

# RFC 7677 §4 says at least 4096. The client does the work, and one with Cyrus SASL, as Postfix, refuses to do more.
ITERATIONS = 65_536
MIN_ITERATIONS = 4096
MAX_ITERATIONS = 10_000_000  # what a client is asked to do is to end some day
SALT_BYTES = 16
_KEY_BYTES = 32  # SHA-256
_MAX_NONCE = 512
_MAX_MESSAGE = 4096
_NONCE_CHARACTERS = frozenset(chr(c) for c in range(0x21, 0x7F) if chr(c) != ",")  # RFC 5802 §7, printable
_SCHEME = "SCRAM-SHA-256"


class ScramKeys(NamedTuple):
    """What is known of a password in its place."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    def __repr__(self) -> str:
        """Without the keys: this may end in a traceback."""
        return f"ScramKeys(iterations={self.iterations}, …)"

    def text(self) -> str:
        """As SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey."""
        salt, stored, server = (b64encode(part).decode() for part in (self.salt, self.stored_key, self.server_key))
        return f"{_SCHEME}${self.iterations}:{salt}${stored}:{server}"


def keys_of(password: str, *, salt: bytes | None = None, iterations: int = ITERATIONS) -> ScramKeys:
    """The keys of a password; takes some hundredths of a second.

    Raises:
        ValueError: the password cannot be one (see `sasl.prepared`).
    """
    salt = secrets.token_bytes(SALT_BYTES) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)
    client_key = _hmac(salted, b"Client Key")
    return ScramKeys(salt, iterations, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key"))


def read_keys(text: str) -> ScramKeys:
    """The inverse of `ScramKeys.text`.

    Raises:
        ValueError: it is none; the text says so in words that can follow the name of a key.
    """
    try:
        scheme, parameters, keys = text.split("$")
        iterations_text, salt_text = parameters.split(":")
        salt, stored, server = (_unbase64(part) for part in (salt_text, *keys.split(":")))
        iterations = int(iterations_text)
    except ValueError:
        raise ValueError("is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey") from None
    if scheme != _SCHEME or len(stored) != _KEY_BYTES or len(server) != _KEY_BYTES or not salt:
        raise ValueError("is not SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
    if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
        raise ValueError(f"has {iterations} iterations; {MIN_ITERATIONS} to {MAX_ITERATIONS} are sensible")
    return ScramKeys(salt, iterations, stored, server)


class Usual(NamedTuple):
    """What the keys of most accounts have in common, and a client gets to see."""

    iterations: int = ITERATIONS
    salt_bytes: int = SALT_BYTES


def usual(like: Iterable[ScramKeys]) -> Usual:
    """What most of `like` have."""
    counts = collections.Counter(Usual(keys.iterations, len(keys.salt)) for keys in like)
    return counts.most_common(1)[0][0] if counts else Usual()


def keys_of_nobody(seed: bytes, name: str, like: Usual) -> ScramKeys:
    """Keys for a name that no account has: always the same salt, as for a real one, and a proof that nobody can give.

    Args:
        seed: ours alone, and the same in all workers and after a restart.
        like: those that accounts have: others would show that there is no such account.
    """
    salt = hashlib.shake_256(_hmac(seed, b"salt " + name.encode())).digest(like.salt_bytes)
    return ScramKeys(salt, like.iterations, secrets.token_bytes(_KEY_BYTES), secrets.token_bytes(_KEY_BYTES))


class Scram:
    """One exchange.

    Args:
        bindings: the channel bindings of this connection by name ("tls-unique"); empty where there are none. We have
            offered -PLUS if there is one.
        plus: the mechanism is -PLUS.
        nonce: our part of it.
    """

    __slots__ = (
        "_bindings", "_bound", "_first_bare", "_header", "_keys", "_name", "_nonce", "_plus", "_proven",
        "_server_first",
    )  # fmt: skip

    def __init__(self, bindings: Mapping[str, bytes], *, plus: bool, nonce: str = "") -> None:
        self._bindings = bindings
        self._plus = plus
        self._nonce = nonce or secrets.token_urlsafe(18)
        self._name = ""
        self._header = ""
        self._first_bare = ""
        self._bound = b""
        self._keys: ScramKeys | None = None
        self._server_first = ""
        self._proven = False

    def begin(self, initial: bytes | None) -> Step:
        """See `sasl.Exchange`."""
        return Challenge(b"") if initial is None else self.respond(initial)

    def respond(self, response: bytes) -> Step:
        """See `sasl.Exchange`."""
        if self._proven:
            # What we have said last was no question, but SMTP has no other place for it (RFC 4954 §4).
            return self._malformed("an answer to our signature") if response else Succeeded(self._name)
        try:
            message = response.decode()
        except UnicodeDecodeError:
            return self._malformed("not UTF-8")
        if len(message) > _MAX_MESSAGE:
            return self._malformed("too long")
        return self._first(message) if self._keys is None else self._final(message, self._keys)

    def use(self, keys: ScramKeys) -> Step:
        """Go on after FindKeys."""
        self._keys = keys
        self._server_first = f"r={self._nonce},s={b64encode(keys.salt).decode()},i={keys.iterations}"
        return Challenge(self._server_first.encode())

    def _malformed(self, why: str) -> Failed:
        return Failed(self._name, f"SCRAM: {why}", malformed=True)

    def _first(self, message: str) -> Step:
        """client-first-message: gs2-header client-first-message-bare."""
        flag, comma, rest = message.partition(",")
        acts_for, second_comma, bare = rest.partition(",")
        if not comma or not second_comma:
            return self._malformed("not a first message")
        if problem := self._flag_problem(flag):
            return problem
        name_field, _, rest = bare.partition(",")
        nonce_field = rest.partition(",")[0]  # extensions behind it that are not mandatory are passed over
        nonce = nonce_field[2:]
        if not name_field.startswith("n=") or not nonce_field.startswith("r="):
            return self._malformed("not a first message, or a mandatory extension")  # "m=" stands before the name
        if not 0 < len(nonce) <= _MAX_NONCE or not _NONCE_CHARACTERS.issuperset(nonce):
            return self._malformed("bad nonce")
        try:
            self._name = account_name(_unescaped(name_field[2:]))
            if acts_for and (acts_for[:2] != "a=" or account_name(_unescaped(acts_for[2:])) != self._name):
                return Failed(self._name, "wanted to act for another account")
        except ValueError:
            return self._malformed("not a name")
        self._header = f"{flag},{acts_for},"
        self._first_bare = bare
        self._nonce = nonce + self._nonce
        return FindKeys(self._name)

    def _flag_problem(self, flag: str) -> Failed | None:
        """Judge whether the connection is bound as the mechanism says (RFC 5802 §6)."""
        if flag.startswith("p="):
            if not self._plus:
                return self._malformed("a channel binding without -PLUS")
            if flag[2:] not in self._bindings:
                return self._malformed("a channel binding that we do not have")
            self._bound = self._bindings[flag[2:]]
        elif self._plus:
            return self._malformed("-PLUS without a channel binding")
        elif flag == "y" and self._bindings:
            return Failed("", "SCRAM: somebody has hidden -PLUS from the client")
        elif flag not in {"n", "y"}:
            return self._malformed("not a first message")
        return None

    def _final(self, message: str, keys: ScramKeys) -> Step:
        """client-final-message: channel-binding nonce [extensions] proof."""
        unproven, comma, proof_text = message.rpartition(",p=")
        fields = unproven.split(",")
        if not comma or len(fields) < 2 or not fields[0].startswith("c=") or not fields[1].startswith("r="):
            return self._malformed("not a final message")
        try:
            bound, proof = _unbase64(fields[0][2:]), _unbase64(proof_text)
        except ValueError:
            return self._malformed("bad base64")
        if len(proof) != _KEY_BYTES:
            return self._malformed("bad proof")
        said = f"{self._first_bare},{self._server_first},{unproven}".encode()
        signature = _hmac(keys.stored_key, said)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        good = hmac.compare_digest(hashlib.sha256(client_key).digest(), keys.stored_key)
        ours = b"v=" + b64encode(_hmac(keys.server_key, said))  # for a bad proof, too: it is to take as long
        if not hmac.compare_digest(bound, self._header.encode() + self._bound):
            return Failed(self._name, "SCRAM: bound to another connection")
        if not hmac.compare_digest(fields[1][2:].encode(), self._nonce.encode()):
            return Failed(self._name, "SCRAM: another nonce")
        if not good:
            return Failed(self._name, "")
        self._proven = True
        return Proven(self._name, ours)


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _unbase64(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("bad base64") from None


def _unescaped(name: str) -> str:
    """A saslname: "=2C" is a comma, "=3D" an equals sign, and "=" stands nowhere else.

    Raises:
        ValueError: it does.
    """
    first, *others = name.split("=")
    if any(other[:2] not in {"2C", "3D"} for other in others):
        raise ValueError("bad saslname")
    return first + "".join(("," if other[:2] == "2C" else "=") + other[2:] for other in others)
