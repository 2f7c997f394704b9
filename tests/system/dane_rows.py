"""The cases of RFC 7672, a domain each: what is in the DNS for it, what its host shows, and what becomes of mail."""

from __future__ import annotations

from typing import NamedTuple

from tests.chains import Issued, issue

MESSAGE = b"Subject: by DANE\r\n\r\nx\r\n"
WAIVING = b"TLS-Required: No\r\n" + MESSAGE

ROOT = issue("root", authority=True, key="rsa")
MIDDLE = issue("middle", ROOT, authority=True)


class Shows(NamedTuple):
    """What a host shows. NAME in names is that of the row.

    Args:
        name: in its certificate, "" for one without STARTTLS.
        above: certificates that are sent with it.
    """

    name: str = "mx.NAME.test"
    above: tuple[Issued, ...] = (MIDDLE, ROOT)
    expired: bool = False
    hopeless: bool = False
    tls_1_2: bool = False


CLEAR = Shows("")
OWN = Shows()
ALONE = Shows(above=())


class Row(NamedTuple):
    """One domain.

    Args:
        zone: records of test.; NAME is the row's, IP and BACK addresses of its hosts, TLSA the name of the records of
            mx.NAME, PORT the port; {3 1 1 leaf} is the data of a record for a certificate of the row, root, or other.
        shows: the host at IP.
        comes: the last words of `tls` in the event of the delivery: "dane", "unverified", "clear"; or what the text of
            the reply to a deferred message has to be (a regular expression), after enhanced code and stage.
        backup: the host at BACK, if there is one.
        plain, bogus: records of plain.test. and bogus.test.
        to: the domain of the recipient, if it is not NAME.test.
        called: what the host has to be asked for (SNI).
        message: what is sent.
    """

    zone: str
    shows: Shows
    comes: str
    backup: Shows | None = None
    plain: str = ""
    bogus: str = ""
    to: str = "NAME.test"
    called: str = ""
    message: bytes = MESSAGE


HOST = "NAME MX 10 mx.NAME\nmx.NAME A IP\n"
BOTH = HOST + "NAME MX 20 back.NAME\nback.NAME A BACK\n"
ASKS = "; the TLSA records of mx.NAME.test ask for it"
FAILED = r"4.7.5 tls TLS with mx.NAME.test \[IP\]:PORT failed: "
NOT_OFFERED = r"4.7.4 tls mx.NAME.test \[IP\]:PORT: TLS is required, but was not offered" + ASKS
NO_RECORDS = r"4.7.5 tls mx.NAME.test \[IP\]:PORT: DNS look-up of the TLSA records of mx.NAME.test failed: "
NO_MATCH = FAILED + r"its certificate matches no TLSA record of mx.NAME.test \({}\)" + ASKS

# Thirty that match nothing: more than fits into 1232 octets, and fewer than are looked at.
MANY = "".join(f"TLSA TLSA 3 1 1 {number:064x}\n" for number in range(30))

ROWS: dict[str, Row] = {
    # --- §3.1: which records verify which certificates
    **{
        f"ee-{selector}-{matching}": Row(HOST + f"TLSA TLSA {{3 {selector} {matching} leaf}}", ALONE, "dane")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    },
    **{
        f"ta-{selector}-{matching}": Row(HOST + f"TLSA TLSA {{2 {selector} {matching} root}}", OWN, "dane")
        for selector in (0, 1)
        for matching in (0, 1, 2)
    },
    "ta-middle": Row(HOST + "TLSA TLSA {2 1 1 middle}", Shows(above=(MIDDLE,)), "dane"),
    "ta-in-dns": Row(HOST + "TLSA TLSA {2 0 0 root}", Shows(above=(MIDDLE,)), "dane"),
    "ta-key-in-dns": Row(HOST + "TLSA TLSA {2 1 0 root}", Shows(above=(MIDDLE,)), "dane"),
    "ta-not-sent": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows(above=(MIDDLE,)), NO_MATCH.format("2 1 1")),
    "tls12": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(tls_1_2=True), "dane"),
    # §3.1.1: for DANE-EE neither name nor date count; §3.1.2, §3.2.2: for DANE-TA both do
    "ee-name": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows("elsewhere.test"), "dane"),
    "ee-expired": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(expired=True), "dane"),
    "ta-name": Row(
        HOST + "TLSA TLSA {2 1 1 root}",
        Shows("elsewhere.test"),
        FAILED + "certificate verify failed: it is not for mx.NAME.test or NAME.test" + ASKS,
    ),
    "ta-expired": Row(
        HOST + "TLSA TLSA {2 1 1 root}", Shows(expired=True), FAILED + "certificate verify failed: .*valid.*" + ASKS
    ),
    "ta-domain": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows("NAME.test"), "dane"),
    "ta-wildcard": Row(HOST + "TLSA TLSA {2 1 1 root}", Shows("*.NAME.test"), "dane"),
    # --- records that come in other ways: by a wildcard, and too many for a datagram
    "wildcard-records": Row(HOST + "*._tcp.mx.NAME TLSA {3 1 1 leaf}", ALONE, "dane"),
    "many": Row(HOST + MANY + "TLSA TLSA {3 1 1 leaf}", ALONE, "dane"),
    "large": Row(HOST + "TLSA TLSA {3 0 0 other}\nTLSA TLSA {2 0 0 root}\nTLSA TLSA {2 0 0 middle}", OWN, "dane"),
    # --- what does not match
    "ee-root": Row(HOST + "TLSA TLSA {3 1 1 root}", OWN, NO_MATCH.format("3 1 1")),
    "ta-leaf": Row(HOST + "TLSA TLSA {2 1 1 leaf}", OWN, NO_MATCH.format("2 1 1")),
    "ee-other": Row(HOST + "TLSA TLSA {3 1 1 other}", OWN, NO_MATCH.format("3 1 1")),
    "ta-other": Row(HOST + "TLSA TLSA {2 1 1 other}", OWN, NO_MATCH.format("2 1 1")),
    "one-of-two": Row(HOST + "TLSA TLSA {3 1 1 other}\nTLSA TLSA {3 1 1 leaf}", OWN, "dane"),
    # RFC 7671 §9: a weaker digest does not help beside a stronger one
    "agility": Row(HOST + "TLSA TLSA {3 1 2 other}\nTLSA TLSA {3 1 1 leaf}", OWN, NO_MATCH.format("3 1 2")),
    # --- §3.1.3, §2.2: records that cannot be used ask for TLS, and no more
    "pkix-ee": Row(HOST + "TLSA TLSA {1 1 1 other}", OWN, "unverified"),
    "pkix-ta": Row(HOST + "TLSA TLSA {0 0 1 other}", OWN, "unverified"),
    "unknown": Row(HOST + "TLSA TLSA 3 7 1 00\nTLSA TLSA 9 1 1 00\nTLSA TLSA 3 1 7 00", OWN, "unverified"),
    "malformed": Row(HOST + "TLSA TLSA 3 1 1 00", OWN, "unverified"),
    "unusable-clear": Row(
        HOST + "TLSA TLSA {1 1 1 leaf}",
        CLEAR,
        NOT_OFFERED + ", though none of them can be used to check a certificate",
    ),
    "half-usable": Row(HOST + "TLSA TLSA {1 1 1 leaf}\nTLSA TLSA {3 1 1 other}", OWN, NO_MATCH.format("3 1 1")),
    "pkix-match": Row(HOST + "TLSA TLSA {1 1 1 leaf}\nTLSA TLSA {0 1 1 root}", OWN, "unverified"),
    "half-malformed": Row(HOST + "TLSA TLSA 3 1 1 00\nTLSA TLSA {3 1 1 leaf}", OWN, "dane"),
    # --- §2.2: no TLS, no mail
    "stripped": Row(HOST + "TLSA TLSA {3 1 1 leaf}", CLEAR, NOT_OFFERED),
    "no-handshake": Row(HOST + "TLSA TLSA {3 1 1 leaf}", Shows(hopeless=True), FAILED + ".*" + ASKS),
    # --- §2.1.1, §2.2.1: what is not secure is as if it were not there
    "none": Row(HOST, CLEAR, "clear"),
    "none-tls": Row(HOST, OWN, "unverified"),
    "no-such-type": Row(HOST + '_PORT._tcp.mx.NAME TXT "x"', CLEAR, "clear"),
    "other-port": Row(HOST + "_26._tcp.mx.NAME TLSA {3 1 1 other}", CLEAR, "clear"),
    "other-host": Row(HOST + "_PORT._tcp.NAME TLSA {3 1 1 other}", CLEAR, "clear"),
    "insecure-records": Row(
        HOST + "TLSA CNAME x.NAME.plain", CLEAR, "clear", plain="x.NAME TLSA {3 1 1 other}"
    ),
    "insecure-mx": Row(
        "mx.NAME A IP\nTLSA TLSA {3 1 1 other}", CLEAR, "clear", plain="NAME MX 10 mx.NAME.test.", to="NAME.plain.test"
    ),
    "insecure-alias": Row(
        HOST + "TLSA TLSA {3 1 1 other}", CLEAR, "clear", plain="NAME CNAME NAME.test.", to="NAME.plain.test"
    ),
    "insecure-host": Row(
        "NAME MX 10 mx.NAME.plain",
        CLEAR,
        "clear",
        plain="mx.NAME A IP\n_PORT._tcp.mx.NAME TLSA {3 1 1 other}",
    ),
    "insecure-no-mx": Row(
        "", CLEAR, "clear", plain="NAME A IP\n_PORT._tcp.NAME TLSA {3 1 1 other}", to="NAME.plain.test"
    ),
    "insecure-chain": Row(
        HOST + "TLSA CNAME x.NAME.plain\ny.NAME TLSA {3 1 1 other}", CLEAR, "clear", plain="x.NAME CNAME y.NAME.test."
    ),
    # --- §2.1.2: what cannot be known stops the host
    "bogus-records": Row(
        HOST + "TLSA CNAME x.NAME.bogus", OWN, NO_RECORDS + "SERVFAIL", bogus="x.NAME TLSA {3 1 1 leaf}"
    ),
    "broken-records": Row(HOST + "TLSA CNAME x.NAME.broken", OWN, NO_RECORDS + "SERVFAIL"),
    "silent-records": Row(HOST + "TLSA CNAME x.NAME.silent", OWN, NO_RECORDS + r"no answer within 2 s from 127\.\S+"),
    "bogus-mx": Row(
        "mx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.bogus.test failed: SERVFAIL",
        bogus="NAME MX 10 mx.NAME.test.",
        to="NAME.bogus.test",
    ),
    "silent-mx": Row(
        "mx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.silent.test failed: no answer within 2 s from 127\.\S+",
        to="NAME.silent.test",
    ),
    "silent-host": Row(
        "NAME MX 10 mx.NAME.silent",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.silent.test failed: no answer .*",
    ),
    "bogus-alias": Row(
        "NAME CNAME x.NAME.bogus\nmx.NAME A IP",
        OWN,
        r"4.4.3 routing DNS look-up of MX for NAME.test failed: SERVFAIL",
        bogus="x.NAME MX 10 mx.NAME.test.",
    ),
    "bogus-host-alias": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME.bogus\nTLSA TLSA {3 1 1 leaf}",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.test failed: SERVFAIL",
        bogus="real.NAME A IP",
    ),
    "bogus-chain": Row(
        HOST + "TLSA CNAME x.NAME\nx.NAME CNAME y.NAME.bogus",
        OWN,
        NO_RECORDS + "SERVFAIL",
        bogus="y.NAME TLSA {3 1 1 leaf}",
    ),
    "bogus-host-backup": Row(
        "NAME MX 10 mx.NAME.bogus\nNAME MX 20 back.NAME\nback.NAME A BACK\n_PORT._tcp.back.NAME TLSA {3 1 1 back}",
        OWN,
        "dane by back.NAME.test",
        backup=Shows("back.NAME.test"),
        bogus="mx.NAME A IP",
    ),
    "bogus-host": Row(
        "NAME MX 10 mx.NAME.bogus",
        OWN,
        r"4.4.3 routing DNS look-up of mx.NAME.bogus.test failed: SERVFAIL",
        bogus="mx.NAME A IP",
    ),
    # --- §2.2.2, §2.2.3, §3.2.2: aliases
    "alias": Row(
        "NAME CNAME real.NAME\nreal.NAME MX 10 mx.NAME\nmx.NAME A IP\nTLSA TLSA {2 1 1 root}",
        Shows("NAME.test"),
        "dane",
    ),
    "alias-end": Row(
        "NAME CNAME real.NAME\nreal.NAME MX 10 mx.NAME\nmx.NAME A IP\nTLSA TLSA {2 1 1 root}",
        Shows("real.NAME.test"),
        "dane",
    ),
    "host-alias": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME\nreal.NAME A IP\n_PORT._tcp.real.NAME TLSA {2 1 1 root}\n"
        "TLSA TLSA {3 1 1 other}",
        Shows("real.NAME.test"),
        "dane",
        called="real.NAME.test",
    ),
    "host-alias-start": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME\nreal.NAME A IP\nTLSA TLSA {2 1 1 root}", OWN, "dane"
    ),
    "host-alias-out": Row(
        "NAME MX 10 mx.NAME\nmx.NAME CNAME real.NAME.plain\nTLSA TLSA {3 1 1 leaf}", OWN, "dane", plain="real.NAME A IP"
    ),
    "records-alias": Row(
        HOST + "TLSA CNAME ca.NAME\nca.NAME TLSA {2 1 1 root}", OWN, "dane", called="mx.NAME.test"
    ),
    # --- §2.2.2: no MX records
    "no-mx": Row("NAME A IP\n_PORT._tcp.NAME TLSA {2 1 1 root}", Shows("NAME.test"), "dane", called="NAME.test"),
    "no-mx-other": Row(
        "NAME A IP\n_PORT._tcp.NAME TLSA {3 1 1 other}",
        OWN,
        r"4.7.5 tls TLS with NAME.test \[IP\]:PORT failed: its certificate matches no TLSA record of NAME.test "
        r"\(3 1 1\); the TLSA records of NAME.test ask for it",
    ),
    # --- §2.2.1: each host for itself, in the order of the MX records
    "second-host": Row(BOTH + "TLSA TLSA {3 1 1 other}", OWN, "clear by back.NAME.test", backup=CLEAR),
    "second-host-records": Row(
        BOTH + "TLSA CNAME x.NAME.broken\n_PORT._tcp.back.NAME TLSA {2 1 1 root}",
        OWN,
        "dane by back.NAME.test",
        backup=Shows("back.NAME.test"),
    ),
    "better-host": Row(
        BOTH + "_PORT._tcp.back.NAME TLSA {2 1 1 root}", CLEAR, "clear by mx.NAME.test", backup=Shows("back.NAME.test")
    ),
    # --- RFC 8689 §4.1: who says that he does not care gets his mail through
    "waived": Row(HOST + "TLSA TLSA {3 1 1 other}", OWN, "unverified", message=WAIVING),
    "waived-stripped": Row(HOST + "TLSA TLSA {3 1 1 leaf}", CLEAR, "clear", message=WAIVING),
    "waived-unknown": Row(HOST + "TLSA CNAME x.NAME.broken", OWN, "unverified", message=WAIVING),
}  # fmt: skip
