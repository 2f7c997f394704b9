"""Relaying by the way an address is written: strangers get mail in for our domains, whatever they write.

Each form is tried from each sender. The forms that other mail systems have fallen for get through a naive one. The
rule itself is in policy/relay.py; docs/attacks.md has the table of all attacks.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.naive_server import Fault, naive_server
from tests.system.server import Dialogue, Postroika
from tests.system.sink_peer import StartOurSink

SENDERS = ("<>", "<stranger@x.test>", "<boss@ours.test>", "<root@[127.0.0.1]>", "<victim@outside.test>")
ROUTES = """\
<victim@outside.test>
<victim@OUTSIDE.TEST>
<victim@outside.test.>
<"victim"@outside.test>
<victim%outside.test@ours.test>
<victim%outside.test@OURS.test>
<victim%outside.test@sub.ours.test>
<victim%outside.test%ours.test@ours.test>
<victim@outside.test@ours.test>
<victim@ours.test@outside.test>
<"victim@outside.test"@ours.test>
<"victim%outside.test"@ours.test>
<"outside.test!victim"@ours.test>
<"victim\\@outside.test"@ours.test>
<outside.test!victim@ours.test>
<ours.test!outside.test!victim@ours.test>
<outside.test!victim>
<victim%outside.test>
<victim%outside.test@>
<"victim@outside.test">
<@ours.test:victim@outside.test>
<@ours.test,@outside.test:victim@outside.test>
<@ours.test:victim%outside.test@ours.test>
<victim@[192.0.2.1]>
<victim@[127.0.0.1]>
<victim@[IPv6:2001:db8::1]>
<victim@[IPv6:::ffff:192.0.2.1]>
<victim@[ours.test]>
<victim@3221225985>
<victim@0xc0000201>
<victim@192.0.2.1>
<victim@ours.test.outside.test>
<victim@notours.test>
<victim@.ours.test>
<victim@ours.test:25>
<victim@outside.test,x@ours.test>
<victim@outside.test;x@ours.test>
<victim@outside.test x@ours.test>
<victim@outside.test>x@ours.test
<victim@outside.test><x@ours.test>
<victim@outside.test\t@ours.test>
<victim(@ours.test)@outside.test>
victim@outside.test
 victim@outside.test@ours.test
<victim>
<root>
<>
< >
<@>
<@ours.test>
<postmaster@outside.test>
<postmaster@[192.0.2.1]>
"""
# With letters beyond ASCII, for MAIL with SMTPUTF8: signs that some would take for those above, names that look like
# ours, dots and letters that are mapped.
WIDE_ROUTES = """\
<victim\uff05outside.test@ours.test>
<victim\uff20outside.test@ours.test>
<outside.test\uff01victim@ours.test>
<victim\ufe6aoutside.test@ours.test>
<victim\ufe6boutside.test@ours.test>
<outside.test\ufe57victim@ours.test>
<outside.test\u203cvictim@ours.test>
<"victim\ufe6boutside.test"@ours.test>
<victim\xa0@outside.test@ours.test>
<victim@\u043eurs.test>
<victim@our\u0455.test>
<victim@ours\u0307.test>
<victim@ours.te\u0455t>
<victim@ours.test\u0338>
<victim@ours\u2024test>
<victim@\u0131ours.test>
<victim@ours.test\uff0eoutside.test>
<victim@outside\u3002test>
<victim@\uff4futside.test>
<victim@\ufeffours.test.outside.test>
<victim@ours.test\u200d.outside.test>
<victim@[\uff11\uff19\uff12.0.2.1]>
"""
# Not strange at all, or mapped to our names by everybody: with what they become.
OURS = {
    "one@ours.test": "one@ours.test",
    "two@SUB.Ours.TEST": "two@sub.ours.test",
    "@hop.test,@x.test:three@ours.test": "three@ours.test",
    '"four"@ours.test': '"four"@ours.test',
}


def relays(port: int, sender: str, form: str, parameters: str = "") -> str:
    """Try to send a message to where `form` may lead; returns the reply to RCPT."""
    with Dialogue(port, "stranger.test") as client:
        assert client.say(f"MAIL FROM:{sender}{parameters}").startswith("250")
        reply = client.say(f"RCPT TO:{form}")
        if reply.startswith("2"):
            client.say("DATA")
            client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
            client.reply()
        else:
            # Nothing that was refused leaves a way to send the message.
            assert client.say("DATA")[:3] in {"354", "554"}
    return reply


def test_naive_server_is_a_relay() -> None:
    with naive_server(Fault.ROUTES, ours=("ours.test",)) as naive:
        for form in ROUTES.splitlines():
            relays(naive.port, "<stranger@x.test>", form)
        reached = {recipient for message in naive.messages for recipient in message.recipients}
    assert {"victim@outside.test", "victim@notours.test"} <= reached
    assert len([recipient for recipient in reached if not recipient.endswith("@ours.test")]) >= 5


@pytest.mark.parametrize(("routes", "parameters"), [(ROUTES, ""), (WIDE_ROUTES, " SMTPUTF8")], ids=["ASCII", "UTF-8"])
def test_strangers_relay_nowhere_whatever_they_write(
    tmp_path: Path, sink: StartOurSink, routes: str, parameters: str
) -> None:
    outside, ours = sink(store=True), sink(store=True)
    config = (
        '[relay]\nnetworks = []\ndomains = ["ours.test", ".ours.test"]\n'
        f'[[route]]\ndomains = ["ours.test", ".ours.test"]\nnext_hop = "smtp://{ours.address}"\n'
        f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://{outside.address}"\n'
    )
    forms = routes.splitlines()
    with Postroika(tmp_path, config, workers=1) as server:
        tries = [(sender, form, relays(server.port, sender, form, parameters)) for form in forms for sender in SENDERS]
        assert [one for one in tries if not one[2].startswith("5")] == []
        rejected = server.wait_for_events(2 * len(SENDERS) * len(forms), "rejected")
        assert {event["client"]["ip"] for event in rejected} == {"127.0.0.1"}
        with server.dialogue() as client:
            assert client.message("stranger@x.test", list(OURS), b"Subject: x\r\n\r\nx\r\n").startswith("250")
        server.wait_for_events(4, "delivered")
        arrived = [recipient for message in ours.messages() for recipient in message.recipients]
        assert sorted(arrived) == sorted(OURS.values())
        server.wait_until_drained()
    assert outside.messages() == []
