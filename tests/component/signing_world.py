"""A signer with keys in files, and the eyes of a verifier."""

from __future__ import annotations

from pathlib import Path

import msgspec
import trio

from postroika.config import Config, Dkim, Signing
from postroika.signing import record, verify
from postroika.signing.key import generate
from postroika.signing.ring import KeyRing
from postroika.signing.signer import Signer
from postroika.spool.reader import Loaded
from tests.component.outbound_fakes import FakeBodies, loaded

RSA, ED25519, OTHER = generate("rsa", 2048), generate("ed25519", 0), generate("ed25519", 0)
HEADER = b"From: Shop <news@shop.test>\r\nTo: a@y.test\r\nSubject: x\r\n\r\n"
PATIENT_S = 20.0


class World:
    """A signer with an RSA and an Ed25519 key of shop.test, and their files."""

    def __init__(self, path: Path, **signing: float) -> None:
        self.files = {"r1": path / "rsa.pem", "e1": path / "ed.pem"}
        self.files["r1"].write_bytes(RSA)
        self.files["e1"].write_bytes(ED25519)
        entries = tuple(
            Dkim(domain="shop.test", signing_domain="shop.test", selector=selector, key=str(file))
            for selector, file in self.files.items()
        )
        config = Config(dkim=entries, signing=Signing(**signing))  # type: ignore[arg-type]
        self.ring = KeyRing(config)
        self.ring.load()
        self.bodies = FakeBodies()
        self.now_s = 0.0
        self.signer = Signer(config, self.ring, self.bodies, now=lambda: self.now_s)

    async def signed(self, batch: Loaded) -> bytes:
        """Its fields, however long it takes."""
        with trio.fail_after(PATIENT_S):
            while (fields := self.signer.signature(batch)) is None:
                await self.signer.wait(batch)
        return fields

    def verdicts(self, message: bytes) -> list[bool]:
        lines = [
            record.zone_line(signature.entry.selector, "shop.test", signature.key)
            for signature in self.ring
            if signature.key is not None
        ]
        return [verdict.passed for verdict in verify.verify(message, record.read_zone("\n".join(lines)).get)]


def message(number: int, body: bytes = b"Hello\r\n") -> Loaded:
    return loaded(number, body=HEADER + body)


def sent_by(sender: str, body: bytes) -> Loaded:
    whole = loaded(1, body=body)
    envelope = msgspec.structs.replace(whole.batch.envelope, reverse_path=sender)
    return Loaded(whole.key, msgspec.structs.replace(whole.batch, envelope=envelope), body)
