"""Reports over HTTPS: to whom, how, and to whom never."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trustme

from postroika.config import Dns
from postroika.routing.resolver import Answer, Status
from postroika.tlsrpt.post import Poster, PostError
from tests.component.https_server import HttpsServer, Request
from tests.component.tls_peer import CA, STRANGER, server_context, trust_file

NAME = "reports.shop.test"
CONTENT = b"\x1f\x8bgzip" * 10_000
LOCAL = Dns(allow_private=("127.0.0.1/32",))


class Names:
    """DNS in which there is one name."""

    def __init__(self, *v4: str, v6: tuple[str, ...] = ()) -> None:
        self.v4, self.v6 = v4, v6
        self.asked: list[str] = []

    async def ipv4(self, name: str) -> Answer[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(name)
        return Answer(Status.FOUND, self.v4) if name == NAME and self.v4 else Answer(Status.NODATA)

    async def ipv6(self, name: str) -> Answer[str]:
        await trio.lowlevel.checkpoint()
        return Answer(Status.FOUND, self.v6) if name == NAME and self.v6 else Answer(Status.NODATA)


def good() -> ssl.SSLContext:
    return server_context(CA.issue_cert(NAME))


def poster(path: Path, dns: Dns = LOCAL, names: Names | None = None, timeout_s: float = 20.0) -> Poster:
    return Poster(dns, names or Names("127.0.0.1"), ca=trust_file(path, CA), timeout_s=timeout_s)


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_report_is_posted_to_the_host_that_the_url_names(tmp_path: Path, status: int) -> None:
    async with HttpsServer(good(), status).serve() as server:
        await poster(tmp_path).post(f"https://{NAME}:{server.port}/v1/tls%20rpt?a=b&c", CONTENT)
    (request,) = server.requests
    assert request._replace(headers={}) == Request("POST", "/v1/tls%20rpt?a=b&c", {}, CONTENT)
    assert request.headers["host"] == f"{NAME}:{server.port}"
    assert request.headers["content-type"] == "application/tlsrpt+gzip"
    assert request.headers["content-length"] == str(len(CONTENT))
    assert server.names == [NAME]


async def test_address_in_a_url_is_used_as_it_is(tmp_path: Path) -> None:
    names = Names()
    async with HttpsServer(server_context(CA.issue_cert("127.0.0.1"))).serve() as server:
        await poster(tmp_path, names=names).post(f"https://127.0.0.1:{server.port}/", CONTENT)
    assert ([request.body for request in server.requests], server.names, names.asked) == ([CONTENT], [None], [])


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500, 503])
async def test_other_answers_are_failures_and_no_redirect_is_followed(tmp_path: Path, status: int) -> None:
    async with HttpsServer(good(), status).serve() as server:
        server.headers["location"] = f"https://{NAME}:{server.port}/elsewhere"
        with pytest.raises(PostError, match=f"/r: HTTP {status}"):
            await poster(tmp_path).post(f"https://{NAME}:{server.port}/r", CONTENT)
    assert [request.target for request in server.requests] == ["/r"]


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        (STRANGER.issue_cert(NAME), "unable to get local issuer certificate"),
        (CA.issue_cert("other.test"), "Hostname mismatch, certificate is not valid for 'reports.shop.test'"),
        (CA.issue_cert(NAME, not_after=datetime(2020, 1, 2, tzinfo=UTC)), "certificate has expired"),
    ],
)
async def test_host_without_a_good_certificate_gets_nothing(
    tmp_path: Path, certificate: trustme.LeafCert, reason: str
) -> None:
    async with HttpsServer(server_context(certificate)).serve() as server:
        with pytest.raises(PostError, match=f"certificate verify failed: {reason}"):
            await poster(tmp_path).post(f"https://{NAME}:{server.port}/r", CONTENT)
    assert server.requests == []


@pytest.mark.parametrize(
    ("names", "host", "said"),
    [
        (Names("127.0.0.1"), NAME, f"{NAME} is refused: 127.0.0.1 is not a public address"),
        (Names("10.1.2.3", "169.254.169.254"), NAME, f"{NAME} is refused: 10.1.2.3 is not a public address"),
        (Names(v6=("::ffff:127.0.0.1",)), NAME, f"{NAME} is refused: ::ffff:127.0.0.1 is not a public address"),
        (Names(), "127.0.0.1", "127.0.0.1 is refused: 127.0.0.1 is not a public address"),
        (Names(), "[::1]", "::1 is refused: ::1 is not a public address"),
        (Names(), "2130706433", "2130706433 has no address"),
        (Names(), NAME, f"{NAME} has no address"),
    ],
)
async def test_no_url_leads_into_private_networks(tmp_path: Path, names: Names, host: str, said: str) -> None:
    async with HttpsServer(good()).serve() as server:
        with pytest.raises(PostError) as caught:
            await poster(tmp_path, Dns(), names).post(f"https://{host}:{server.port}/r", CONTENT)
        assert str(caught.value) == said
    assert server.requests == []


async def test_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    async with HttpsServer(good(), status=0).serve() as server:
        with pytest.raises(PostError, match=r"/r: no answer within 0.5 s"):
            await poster(tmp_path, timeout_s=0.5).post(f"https://{NAME}:{server.port}/r", CONTENT)


async def test_closed_port_is_a_failure(tmp_path: Path) -> None:
    async with HttpsServer(good()).serve() as server:
        port = server.port
    with pytest.raises(PostError, match=f"https://{NAME}:{port}/r: "):
        await poster(tmp_path).post(f"https://{NAME}:{port}/r", CONTENT)
