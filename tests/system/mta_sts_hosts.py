"""Policy hosts of MTA-STS for each case of RFC 8461 §3: what they publish, answer and show."""

from __future__ import annotations

from pathlib import Path

from tests.system.certificates import Authority
from tests.system.https_peer import PLAIN, PolicyHosts, response

WEEK_S = 7 * 86_400
ENFORCE = f"version: STSv1\nmode: enforce\nmx: mx1.shop.test\nmx: *.mail.shop.test\nmax_age: {WEEK_S}\n"
PATTERNS = ("mx1.shop.test", "*.mail.shop.test")
GOOD = response(ENFORCE, PLAIN)
LARGEST = 65_536

# Records beside those of the policy hosts.
ZONE = """
one A 192.0.2.1
_mta-sts.two TXT "v=STSv1; id=1"
_mta-sts.two TXT "v=STSv1; id=2"
_mta-sts.badid TXT "v=STSv1; id=2026-11-22"
_mta-sts.longid TXT "v=STSv1; id=123456789012345678901234567890123"
_mta-sts.noid TXT "v=STSv1;"
_mta-sts.emptyid TXT "v=STSv1; id=;"
_mta-sts.later TXT "id=1; v=STSv1"
_mta-sts.next TXT "v=STSv2; id=1"
_mta-sts.lower TXT "v=stsv1; id=1"
_mta-sts.clutter TXT "v=STSv1; id=1; =;;x"
_mta-sts.blank TXT ""
_mta-sts.spf TXT "v=spf1 -all"
_mta-sts.beside TXT "v=spf1 -all"
_mta-sts.beside TXT "v=STSv2; id=2"
_mta-sts.nohost TXT "v=STSv1; id=1"
_mta-sts.inside TXT "v=STSv1; id=1"
mta-sts.inside A 10.0.0.1
_mta-sts.dead TXT "v=STSv1; id=1"
mta-sts.dead A 127.0.0.9
_mta-sts.lost TXT "v=STSv1; id=1"
mta-sts.lost CNAME policies.broken
_mta-sts.alias CNAME record.alias
record.alias TXT "v=ST" "Sv1; id=1;"
mta-sts.alias CNAME mta-sts.hosted
enforce MX 10 mx1.shop
enforce MX 20 A.Mail.Shop
enforce MX 30 b.a.mail.shop
testing MX 10 mx2.shop
none MX 10 mx1.shop
two MX 10 mx1.shop
"""
# Texts that are no policy, whole and well served: RFC 8461 §3.2.
BROKEN = {
    "empty": "",
    "noversion": ENFORCE.replace("version: STSv1\n", ""),
    "badversion": ENFORCE.replace("STSv1", "STSv2"),
    "nomode": ENFORCE.replace("mode: enforce\n", ""),
    "badmode": ENFORCE.replace("enforce", "report"),
    "nomx": f"version: STSv1\nmode: enforce\nmax_age: {WEEK_S}\n",
    "nomxtest": f"version: STSv1\nmode: testing\nmax_age: {WEEK_S}\n",
    "badmx": ENFORCE.replace("*.mail", "mail.*"),
    "address": ENFORCE.replace("mx1.shop.test", "192.0.2.1/24"),
    "noage": ENFORCE.replace(f"max_age: {WEEK_S}\n", ""),
    "badage": ENFORCE.replace(str(WEEK_S), "-1"),
    "longage": ENFORCE.replace(str(WEEK_S), "31557601"),
    "oneline": ENFORCE.replace("\n", ", "),
    "latin": ENFORCE.encode() + b"x: gr\xfc\xdfe\n",
}
# Answers with a good policy and a status that makes it none: §3.3.
ANSWERS = {
    "created": "201 Created", "partial": "206 Partial Content", "moved": "301 Moved Permanently", "found": "302 Found",
    "temporary": "307 Temporary Redirect", "permanent": "308 Permanent Redirect", "denied": "403 Forbidden",
    "missing": "404 Not Found", "gone": "410 Gone", "failing": "500 Internal Server Error",
    "unavailable": "503 Service Unavailable",
}  # fmt: skip


def target_of(hosts: PolicyHosts) -> str:
    """A place where a good policy is."""
    return f"https://mta-sts.enforce.test:{hosts.port}/.well-known/mta-sts.txt"


def start_all(hosts: PolicyHosts, directory: Path) -> None:
    """A policy host for each case."""
    start = hosts.start
    start("enforce").answers(GOOD)
    start("crlf").answers(response(ENFORCE.replace("\n", "\r\n"), "content-type: TEXT/PLAIN; charset=utf-8"))
    start("endless").answers(GOOD.replace(b"Content-Length", b"X-Length"))
    start("testing").answers(response(ENFORCE.replace("enforce", "testing"), PLAIN))
    start("none").answers(response("version: STSv1\nmode: none\nmax_age: 86400\n", PLAIN))
    start("beside").answers(GOOD)
    unknown = "mode: none\nmax_age: 1\nversion: STSv9\nx-new: \u20ac\n"  # of keys that come again, the first counts
    start("unknown").answers(response(ENFORCE + unknown, PLAIN))
    for label, text in BROKEN.items():
        start(label).answers(response(text, PLAIN))
    for label, status in ANSWERS.items():
        start(label).answers(response(ENFORCE, PLAIN, f"Location: {target_of(hosts)}", status=status))
    start("old", options=("-tls1_1", "-cipher", "ALL@SECLEVEL=0")).answers(GOOD)
    start("zero").answers(response(ENFORCE.replace(str(WEEK_S), "0"), PLAIN))
    start("wildcert", "*.wildcert.test").answers(GOOD)
    start("hosted", "mta-sts.alias.test", called="mta-sts.alias.test").answers(GOOD)
    start("largest").answers(response(ENFORCE + f"x: {'y' * (LARGEST - len(ENFORCE) - 4)}\n", PLAIN))
    start("v6", address="::1").answers(GOOD)
    start("html").answers(response(ENFORCE, "Content-Type: text/html"))
    start("untyped").answers(response(ENFORCE))
    start("gzip").answers(response(ENFORCE, PLAIN, "Content-Encoding: gzip"))
    start("large").answers(response(ENFORCE + f"x: {'y' * (LARGEST - len(ENFORCE) - 3)}\n", PLAIN))
    start("flood").answers(response("", PLAIN).replace(b"Content-Length: 0\r\n", b"") + bytes(50_000_000))
    start("syntax").answers(response("<html>Hello</html>\n", PLAIN))
    start("cut").answers(GOOD[:-20])
    start("noise").answers(b"220 mail.noise.test ESMTP\r\n")
    start("othername", "mta-sts.other.test").answers(GOOD)
    start("parent", "parent.test").answers(GOOD)
    start("expired", address="127.0.0.100", expired=True).answers(GOOD)
    stranger = directory / "stranger"
    stranger.mkdir()
    start("stranger-ca", authority=Authority(stranger)).answers(GOOD)
    start("slow").answers(GOOD).holds_its_tongue()
