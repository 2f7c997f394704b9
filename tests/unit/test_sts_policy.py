"""The text of MTA-STS policies and records: what counts, what is passed over, what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.sts.policy import LONGEST_MAX_AGE_S, MOST_PATTERNS, PolicyText, StsPolicy, parse_policy
from postroika.sts.record import owner_name, read_records
from tests.reference import sts as twin

POLICY = b"version: STSv1\nmode: enforce\nmx: mx1.shop.test\nmx: *.mail.shop.test\nmax_age: 604800\n"
READ = PolicyText("enforce", ("mx1.shop.test", "*.mail.shop.test"), 604_800)


@pytest.mark.parametrize(
    "text",
    [
        POLICY,
        POLICY.replace(b"\n", b"\r\n"),
        POLICY.removesuffix(b"\n"),
        POLICY.replace(b": ", b":"),
        POLICY.replace(b": ", b": \t ").replace(b"\n", b" \t\n"),
        b"\n" + POLICY + b"\r\n \t\r\n",
        POLICY.replace(b"mx1.shop", b"MX1.Shop"),
        b"".join(sorted(POLICY.splitlines(keepends=True), key=lambda line: b"*" in line)),
        POLICY + b"unknown-key.2: whatever \xe2\x82\xac: it is\nmode: none\nversion: STSv2\nmax_age: x\n",
        POLICY + b"mx: mx1.shop.test\n",
        POLICY + b"MODE: none\n",
    ],
)
def test_policy_is_read(text: bytes) -> None:
    assert parse_policy(text) == READ


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "the key version is missing"),
        (POLICY.replace(b"version: STSv1\n", b""), "the key version is missing"),
        (POLICY.replace(b"mode: enforce\n", b""), "the key mode is missing"),
        (POLICY.replace(b"max_age: 604800\n", b""), "the key max_age is missing"),
        (POLICY.replace(b"STSv1", b"STSv2"), "version: 'STSv2' is not STSv1"),
        (POLICY.replace(b"STSv1", b"stsv1"), "version: 'stsv1' is not STSv1"),
        (POLICY.replace(b"enforce", b"Enforce"), "mode: 'Enforce' is not enforce, testing or none"),
        (POLICY.replace(b"604800", b"-1"), "max_age: '-1' is not a number from 0 to 31557600"),
        (POLICY.replace(b"604800", b"31557601"), "max_age: '31557601' is not a number from 0 to 31557600"),
        (POLICY.replace(b"604800", b"1e3"), "max_age: '1e3' is not a number from 0 to 31557600"),
        (POLICY.replace(b"604800", "٣".encode()), "max_age: '\\u0663' is not a number from 0 to 31557600"),
        (POLICY.replace(b"604800", b""), "max_age: '' is not a number from 0 to 31557600"),
        (b"version: STSv1\nmode: enforce\nmax_age: 1\n", "it names no host (mx)"),
        (b"version: STSv1\nmode: testing\nmax_age: 1\n", "it names no host (mx)"),
        (POLICY.replace(b"*.mail", b"*mail"), "mx: '*mail.shop.test' is neither a host name nor *.name"),
        (POLICY.replace(b"*.mail", b"mail.*"), "mx: 'mail.*.shop.test' is neither a host name nor *.name"),
        (POLICY.replace(b"*.mail.shop.test", b"*"), "mx: '*' is neither a host name nor *.name"),
        (POLICY.replace(b"mx1.shop.test", b""), "mx: '' is neither a host name nor *.name"),
        (
            POLICY.replace(b"mx1.shop.test", "bücher.test".encode()),
            "mx: 'b\\xfccher.test' is neither a host name nor *.name",
        ),
        (POLICY.replace(b"mx1.", b"x" * 64 + b"."), f"mx: '{'x' * 64}.shop.test' is neither a host name nor *.name"),
        (POLICY.replace(b"mode: ", b"mode "), "line 2 is not of the form key: value"),
        (POLICY.replace(b"mode:", b" mode:"), "line 2 is not of the form key: value"),
        (POLICY.replace(b"mode:", b"mode :"), "line 2 is not of the form key: value"),
        (POLICY.replace(b"enforce", b"enf\0rce"), "line 2 is not of the form key: value"),
        (POLICY.replace(b"\n", b"\r"), "line 1 is not of the form key: value"),
        (POLICY + b"<html>\n", "line 6 is not of the form key: value"),
        (POLICY + b"\xff\n", f"octet {len(POLICY)} is not UTF-8"),
        (b"\xef\xbb\xbf" + POLICY, "line 1 is not of the form key: value"),
        (POLICY + b"".join(b"mx: h%d.test\n" % i for i in range(MOST_PATTERNS)), "it names more than 256 hosts"),
    ],
)
def test_what_is_no_policy_is_told(text: bytes, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_policy(text)
    assert str(caught.value) == why


@pytest.mark.parametrize("age", [0, 1, LONGEST_MAX_AGE_S])
def test_policy_of_mode_none_needs_no_hosts(age: int) -> None:
    text = b"version: STSv1\nmode: none\nmax_age: %d" % age
    assert parse_policy(text) == PolicyText("none", (), age)


@pytest.mark.parametrize("length", range(len(POLICY)))
def test_policy_that_is_cut_off_is_none_or_shorter(length: int) -> None:
    whole = POLICY.index(b"max_age: ") + len(b"max_age: ") + 1
    if length < whole:
        with pytest.raises(ValueError):
            parse_policy(POLICY[:length])
    else:
        assert parse_policy(POLICY[:length]).patterns == READ.patterns


def test_hostile_blanks_cost_little() -> None:
    blanks = b" " * 65_000
    began = time.process_time()
    for text in (b"mode:" + blanks + b"x" + blanks, b"a:" + b" x" * 32_000, blanks + b"x", b"mx: " + b"a." * 32_000):
        with pytest.raises(ValueError):
            parse_policy(text)
    with pytest.raises(ValueError):
        read_records([b"v=STSv1;" + blanks + b"x" + blanks])
    assert time.process_time() - began < 1


def _policy(*patterns: str) -> StsPolicy:
    return StsPolicy("shop.test", "enforce", patterns, 604_800, "1", 0.0)


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ("mx1.shop.test", True),
        ("MX1.Shop.Test.", True),
        ("mx2.shop.test", False),
        ("x.mx1.shop.test", False),
        ("a.mail.shop.test", True),
        ("A.MAIL.shop.test", True),
        ("mail.shop.test", False),
        ("a.b.mail.shop.test", False),
        (".mail.shop.test", False),
        ("*.mail.shop.test", True),  # no host has that name
        ("", False),
    ],
)
def test_wildcard_stands_for_one_label(host: str, named: bool) -> None:
    assert _policy(*READ.patterns).matches(host) is named


def test_policy_shows_its_lines() -> None:
    policy = READ.of("shop.test", "id1", 1000.0)
    assert policy == StsPolicy("shop.test", "enforce", READ.patterns, 604_800, "id1", 605_800.0)
    assert policy.lines() == (
        "version: STSv1", "mode: enforce", "mx: mx1.shop.test", "mx: *.mail.shop.test", "max_age: 604800"
    )  # fmt: skip
    assert parse_policy("\r\n".join(policy.lines()).encode()) == READ


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        ([], ""),
        ([b"v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        ([b"v=STSv1;id=1"], "1"),
        ([b"v=STSv1 \t; \tid=1 \t; \t"], "1"),
        ([b"v=STSv1; id=1; id=2"], "1"),
        ([b"v=STSv1; x-1_.=a:b; id=1; y=~!"], "1"),
        ([b"v=STSv1; id=" + b"a" * 32], "a" * 32),
        ([b"v=spf1 -all"], ""),
        ([b"v=stsv1; id=1"], ""),
        ([b" v=STSv1; id=1"], ""),
        ([b"v=STSv10; id=1"], ""),
        ([b"v=STSv1"], ""),
        ([b"something else", b"v=STSv1; id=1", b"v=STSv2; id=2"], "1"),
    ],
)
def test_record_is_read(texts: list[bytes], found: str) -> None:
    assert read_records(texts) == found


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ([b"v=STSv1; id=1", b"v=STSv1; id=1"], "2 records begin with v=STSv1, and only one may"),
        ([b"v=STSv1;"], "the record has no id"),
        ([b"v=STSv1; ID=1"], "the record has no id"),
        ([b"v=STSv1; id="], "'id=' is not a field of the form name=value"),
        ([b"v=STSv1; id=a-b"], "the id 'a-b' is not 1 to 32 letters and digits"),
        ([b"v=STSv1; id=" + b"a" * 33], f"the id '{'a' * 33}' is not 1 to 32 letters and digits"),
        ([b"v=STSv1; id=a b"], "'id=a b' is not a field of the form name=value"),
        ([b"v=STSv1;; id=1"], "'' is not a field of the form name=value"),
        ([b"v=STSv1; id=1; \xff\x1b=1"], "'\\xff\\x1b=1' is not a field of the form name=value"),
        ([b"v=STSv1; id=1; a=b=c"], "'a=b=c' is not a field of the form name=value"),
    ],
)
def test_record_that_is_broken_is_told(texts: list[bytes], why: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_records(texts)
    assert str(caught.value) == why


def test_record_is_below_the_domain() -> None:
    assert owner_name("shop.test") == "_mta-sts.shop.test"


KEYS = st.sampled_from(["version", "mode", "mx", "max_age", "x", ""])
VALUES = st.sampled_from(["STSv1", "enforce", "none", "86400", "*.shop.test", "mx.shop.test"]) | st.text(max_size=8)
LINES = st.builds("{}{}{}{}{}".format, KEYS, st.sampled_from(":::: "), st.sampled_from(["", " ", "\t"]), VALUES,
                  st.sampled_from(["\n", "\n", "\r\n", " \n", "\r"]))  # fmt: skip
TEXTS = st.lists(LINES, max_size=8).map(lambda lines: "".join(lines).encode("utf-8", "surrogatepass"))
FIELDS = st.sampled_from(["v=STSv1", "id=1", "id=x", ";", " ", "\t", "=", "a=b"]) | st.text(max_size=3)


@given(st.binary(max_size=60) | TEXTS | TEXTS.map(lambda text: POLICY + text))
def test_policy_is_read_as_its_twin_reads_it(text: bytes) -> None:
    try:
        expected = twin.policy(text)
    except ValueError:
        with pytest.raises(ValueError):
            parse_policy(text)
    else:
        assert parse_policy(text) == expected


@given(st.lists(st.lists(FIELDS, max_size=8).map(lambda parts: "".join(parts).encode()), max_size=3))
def test_record_is_read_as_its_twin_reads_it(texts: list[bytes]) -> None:
    try:
        expected = twin.record_id(texts)
    except ValueError:
        with pytest.raises(ValueError):
            read_records(texts)
    else:
        assert read_records(texts) == expected
