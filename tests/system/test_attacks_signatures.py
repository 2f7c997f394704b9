"""Signatures that are made to be costly to look at: `postroika dkim verify` ends soon, whatever it is given.

docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

import base64
import resource
import subprocess
import sys
import time
from pathlib import Path

import dkim
import pytest

HEADER = b"From: a@x.test\r\nTo: b@x.test\r\nSubject: x\r\n"
MOST_CPU_S = 20.0  # of the whole process, of which Python and its imports take one or two on a slow machine
FIELD = b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=x.test; s=s1; h=From; bh=%b; b=%b\r\n"
DIGEST = base64.b64encode(bytes(32))


def signature(bits: int = 2048) -> bytes:
    """One that is well formed, and whose body hash is that of an empty body."""
    return FIELD % (b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", base64.b64encode(b"\x01" * (bits // 8)))


def key_text(bits: int) -> str:
    """The record of an RSA key of so many bits; no private key belongs to it."""

    def der(tag: int, content: bytes) -> bytes:
        length = len(content)
        if length < 128:
            return bytes([tag, length]) + content
        octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
        return bytes([tag, 0x80 | len(octets)]) + octets + content

    modulus = der(2, b"\0" + b"\xff" * (bits // 8))
    exponent = der(2, b"\0" + b"\xff" * (bits // 8 - 1) + b"\xfd")  # as long, so that it costs as much as it can
    rsa = bytes.fromhex("300d06092a864886f70d0101010500")
    public = der(0x30, rsa + der(3, b"\0" + der(0x30, modulus + exponent)))
    return "v=DKIM1; k=rsa; p=" + base64.b64encode(public).decode()


def key_record(bits: int) -> str:
    """As it stands in a zone file."""
    text = key_text(bits)
    strings = " ".join(f'"{text[at : at + 250]}"' for at in range(0, len(text), 250))
    return f"s1._domainkey.x.test. IN TXT ( {strings} )\n"


def verify(path: Path, message: bytes, keys: str, *options: str) -> tuple[int, str, float]:
    """The command: exit code, all that it says, and the seconds of a processor that it took."""
    (path / "keys").write_text(keys)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "postroika", "dkim", "verify", "--keys", str(path / "keys"), *options],
        input=message, capture_output=True, timeout=300, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.returncode, (done.stdout + done.stderr).decode(), took


def test_naive_verifier_takes_time_with_the_square() -> None:
    """A verifier that hands the message to its library as it is: hours for a megabyte of blanks."""

    def took_s(blanks: int) -> float:
        message = signature() + HEADER + b"\r\nx" + b" " * blanks + b"x\r\n"
        begin = time.process_time()
        dkim.verify(message, dnsfunc=lambda *_args, **_more: key_text(2048).encode())
        return time.process_time() - begin

    assert took_s(16_000) > 6 * took_s(4_000)


def test_naive_verifier_looks_at_all_signatures_and_uses_any_key() -> None:
    """Each of them costs as much as the first, and a key of four times the size some sixty times as much."""

    def took_s(bits: int, signatures: int) -> float:
        message = signature(bits) * signatures + HEADER + b"\r\n"
        verifier = dkim.DKIM(message)
        begin = time.process_time()
        for index in range(signatures):
            verifier.verify(idx=index, dnsfunc=lambda *_args, **_more: key_text(bits).encode())
        return time.process_time() - begin

    few = took_s(1024, 5)
    assert took_s(1024, 50) > 5 * few
    assert took_s(4096, 1) > 15 * few / 5


def test_a_thousand_signatures_cost_no_more_than_ten(tmp_path: Path) -> None:
    code, said, took = verify(tmp_path, signature() * 1000 + HEADER + b"\r\n", key_record(2048))
    assert (code, said.count("BAD  d=x.test")) == (1, 10)
    assert "990 more signatures were not looked at" in said
    assert took < MOST_CPU_S


@pytest.mark.parametrize("bits", [8192, 16_384, 65_536])
def test_key_that_is_too_large_is_not_used(tmp_path: Path, bits: int) -> None:
    code, said, took = verify(tmp_path, signature(bits) + HEADER + b"\r\n", key_record(bits))
    assert code == 1
    assert "a key record of " in said or "a key of more than 4096 bits" in said or "a signature field of" in said
    assert took < MOST_CPU_S


MESSAGES = {
    "blanks in the body": signature() * 10 + HEADER + b"\r\nx" + b" " * 4_000_000 + b"x\r\n",
    "blanks at line ends": signature() * 10 + HEADER + b"\r\n" + (b"\t" * 5000 + b"x\r\n") * 800,
    "empty lines": signature() * 10 + HEADER + b"\r\n" + b"\r\n" * 2_000_000,
    "a folded field": signature() + b"X: y\r\n" + b" z\r\n" * 250_000 + HEADER + b"\r\n",
    "many fields": signature() + b"x: y\r\n" * 150_000 + HEADER + b"\r\n",
    "names of fields": FIELD.replace(b"h=From", b"h=From" + b":x" * 3500) % (DIGEST, DIGEST)
    + b"y: z\r\n" * 1990
    + HEADER
    + b"\r\n",
    "a signature of blanks": FIELD % (DIGEST, b"A" + b" " * 7500 + b"!") * 10 + HEADER + b"\r\n",
    "a large signature": FIELD % (DIGEST, b"A" * 900_000) + HEADER + b"\r\n",
    "no header": b"x" * 4_000_000,
    "tags": b"DKIM-Signature: " + b"a=b;" * 2000 + b"\r\n" + HEADER + b"\r\n",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_message_that_is_made_to_be_costly_is_not(tmp_path: Path, kind: str) -> None:
    code, said, took = verify(tmp_path, MESSAGES[kind], key_record(2048))
    assert code == 1
    assert "BAD " in said or "no signature" in said
    assert "Traceback" not in said
    assert took < MOST_CPU_S
