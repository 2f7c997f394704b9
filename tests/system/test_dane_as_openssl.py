"""OpenSSL has DANE of its own: its verdict on a server and its records has to be ours."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postroika.tls.dane import judge
from postroika.tls.tlsa import Tlsa, dane_for
from tests.chains import Issued, issue, tlsa
from tests.system.process import Process, free_port, program, run, wait_until

HOST = "mx.shop.test"
ROOT = issue("root", authority=True, key="rsa")
MIDDLE = issue("middle", ROOT, authority=True)
OTHER = issue("other", authority=True)
SERVERS: dict[str, tuple[Issued, tuple[Issued, ...]]] = {
    "good": (issue("leaf", MIDDLE, HOST), (MIDDLE, ROOT)),
    "without its root": (issue("leaf", MIDDLE, HOST), (MIDDLE,)),
    "alone": (issue("leaf", MIDDLE, HOST), ()),
    "rsa": (issue("leaf", ROOT, HOST, key="rsa"), (ROOT,)),
    "other name": (issue("leaf", MIDDLE, "elsewhere.test"), (MIDDLE, ROOT)),
    "wildcard": (issue("leaf", MIDDLE, "*.shop.test"), (MIDDLE, ROOT)),
    "wildcard of too much": (issue("leaf", MIDDLE, "*.test"), (MIDDLE, ROOT)),
    "common name": (issue(HOST, MIDDLE), (MIDDLE, ROOT)),
    "expired": (issue("leaf", MIDDLE, HOST, expired=True), (MIDDLE, ROOT)),
    "self-signed": (issue("self", None, HOST), ()),
    "of somebody else": (issue("leaf", OTHER, HOST), (OTHER, ROOT)),
    "of no authority": (issue("leaf", issue("middle", ROOT), HOST), (ROOT,)),
}


def _records(name: str) -> dict[str, list[Tlsa]]:
    leaf, _ = SERVERS[name]
    records = {
        f"{usage} {selector} {matching} {whose}": [tlsa(usage, selector, matching, issued)]
        for usage, whose, issued in ((3, "leaf", leaf), (3, "root", ROOT), (2, "root", ROOT), (2, "middle", MIDDLE))
        for selector in (0, 1)
        for matching in (0, 1, 2)
    }
    records["of the leaf as an authority"] = [tlsa(2, 1, 1, leaf)]
    records["of another one"] = [tlsa(3, 1, 1, OTHER), tlsa(2, 1, 1, OTHER)]
    records["one of two"] = [tlsa(3, 1, 1, OTHER), tlsa(3, 1, 1, leaf)]
    records["a weaker digest"] = [tlsa(3, 1, 2, OTHER), tlsa(3, 1, 1, leaf)]
    return records


@contextmanager
def _server(directory: Path, name: str) -> Iterator[int]:
    leaf, above = SERVERS[name]
    key, chain, port = directory / "leaf.pem", directory / "chain.pem", free_port()
    leaf.write(key)
    chain.write_bytes(b"".join(one.pem().partition(b"-----END PRIVATE KEY-----\n")[2] for one in above))
    command = [program("openssl", "openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-cert", key, "-key", key]
    command += ["-cert_chain", chain, "-quiet"] if above else ["-quiet"]
    with Process(command, log=directory / "s_server.log") as process:
        wait_until(lambda: "error" in process.output() or _accepts(port), "s_server")
        yield port


def _accepts(port: int) -> bool:
    return f":{port:04X} 00000000:0000 0A" in Path("/proc/net/tcp").read_text()


def _openssl_accepts(port: int, records: list[Tlsa]) -> bool:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-dane_tlsa_domain", HOST]
    command += ["-dane_ee_no_namechecks", "-no-CAfile", "-no-CApath", "-no-CAstore"]
    for record in records:
        command += ["-dane_tlsa_rrdata", str(record)]
    output = run(command, within_s=30).stdout
    assert "Verif" in output, output
    return "Verify return code: 0 (ok)" in output


@pytest.mark.parametrize("name", SERVERS)
def test_verdicts_are_those_of_openssl(name: str, tmp_path: Path) -> None:
    leaf, above = SERVERS[name]
    chain = [leaf.der, *(one.der for one in above)]
    differing: dict[str, str] = {}
    with _server(tmp_path, name) as port:
        for what, records in _records(name).items():
            dane = dane_for(HOST, records, ())
            assert dane is not None
            ours = judge(dane, chain, time.time())
            if _openssl_accepts(port, records) is not (ours == ""):
                differing[what] = ours or "good"
    assert differing == {}


def test_openssl_is_there_with_dane() -> None:
    usage = subprocess.run(["openssl", "s_client", "-help"], capture_output=True, text=True, check=False)
    assert "-dane_tlsa_domain" in usage.stderr + usage.stdout
