"""What replies and failures mean: the whole policy."""

from __future__ import annotations

import errno
import os

import pytest

from postroika.errors import RemoteProtocolError
from postroika.mail.outcome import Outcome, Peer, RecipientResult, Stage
from postroika.mail.reply import Reply
from postroika.outbound import classify
from postroika.outbound.failure import Failure, PeerClosed, SessionRefused, TimedOut, TlsFailed
from postroika.smtp.client_transaction import Step, Verdict

PEER = Peer("mx.y.test", "192.0.2.1", 25)
RESET = os.strerror(errno.ECONNRESET)
SAID = Reply(421, "4.3.2", ("closing",))


@pytest.mark.parametrize("stage", [Stage.ROUTING, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.FINAL_DOT])
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (250, Outcome.DELIVERED),
        (299, Outcome.DELIVERED),
        (421, Outcome.DEFERRED),
        (452, Outcome.DEFERRED),
        (499, Outcome.DEFERRED),
        (550, Outcome.FAILED),
        (552, Outcome.FAILED),
        (599, Outcome.FAILED),
    ],
)
def test_reply_about_the_mail_counts_by_its_first_digit(stage: Stage, code: int, outcome: Outcome) -> None:
    reply = Reply(code)
    assert classify.result(3, Verdict(stage, reply)) == RecipientResult(3, outcome, reply, stage)


@pytest.mark.parametrize("stage", [Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.TLS, Stage.AUTH])
@pytest.mark.parametrize("code", [421, 450, 521, 550, 554])
def test_reply_about_the_host_is_never_final(stage: Stage, code: int) -> None:
    assert classify.result(0, Verdict(stage, Reply(code))).outcome is Outcome.DEFERRED


@pytest.mark.parametrize("code", [250, 450, 550])
def test_success_notice_is_asked_of_us_only_with_success(code: int) -> None:
    result = classify.result(0, Verdict(Stage.FINAL_DOT, Reply(code)), wants_success_notice=True)
    assert result.relayed_without_dsn is (code == 250)


@pytest.mark.parametrize(
    ("error", "step", "stage", "words"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Step.NOTHING, Stage.CONNECT,
         "451 4.4.1 mx.y.test [192.0.2.1]:25 refused the connection"),
        (OSError(errno.EHOSTUNREACH, "x"), Step.NOTHING, Stage.CONNECT,
         "451 4.4.1 connecting to mx.y.test [192.0.2.1]:25 failed: No route to host"),
        (OSError(errno.EMFILE, "x"), Step.NOTHING, Stage.CONNECT,
         "451 4.3.0 connecting to mx.y.test [192.0.2.1]:25 failed here: Too many open files"),
        (TimedOut(Step.NOTHING), Step.NOTHING, Stage.CONNECT,
         "451 4.4.1 connecting to mx.y.test [192.0.2.1]:25 timed out"),
        (TimedOut(Step.RCPT), Step.RCPT, Stage.RCPT,
         "451 4.4.2 waiting for the answer to RCPT TO of mx.y.test [192.0.2.1]:25 timed out"),
        (TimedOut(Step.BODY, sending=True), Step.BODY, Stage.DATA,
         "451 4.4.2 mx.y.test [192.0.2.1]:25 stopped taking the message"),
        (ConnectionResetError(errno.ECONNRESET, "x"), Step.DATA, Stage.DATA,
         f"451 4.4.2 the connection to mx.y.test [192.0.2.1]:25 was lost before the answer to DATA: {RESET}"),
        (PeerClosed(Step.EHLO), Step.EHLO, Stage.EHLO,
         "451 4.4.2 mx.y.test [192.0.2.1]:25 closed the connection before the answer to EHLO"),
        (PeerClosed(Step.FINAL_DOT), Step.FINAL_DOT, Stage.DATA,
         "451 4.4.2 mx.y.test [192.0.2.1]:25 closed the connection before the answer to the message"),
        (RemoteProtocolError("not a reply: 'x'"), Step.MAIL, Stage.MAIL,
         "451 4.5.0 mx.y.test [192.0.2.1]:25 does not speak SMTP properly: not a reply: 'x'"),
        (SessionRefused(Stage.TLS, Reply(451, "4.7.4", ("not offered",)), False), Step.EHLO, Stage.TLS,
         "451 4.7.4 mx.y.test [192.0.2.1]:25: not offered"),
        (TlsFailed("certificate verify failed: expired", untrusted=True), Step.HANDSHAKE, Stage.TLS,
         "451 4.7.5 TLS with mx.y.test [192.0.2.1]:25 failed: certificate verify failed: expired"),
        (TlsFailed("bad record mac"), Step.FINAL_DOT, Stage.DATA,
         "451 4.7.5 TLS with mx.y.test [192.0.2.1]:25 broke before the answer to the message: bad record mac"),
        (TimedOut(Step.HANDSHAKE), Step.HANDSHAKE, Stage.TLS,
         "451 4.4.2 waiting for the end of the TLS handshake of mx.y.test [192.0.2.1]:25 timed out"),
        (PeerClosed(Step.STARTTLS), Step.STARTTLS, Stage.TLS,
         "451 4.4.2 mx.y.test [192.0.2.1]:25 closed the connection before the answer to STARTTLS"),
    ],
)  # fmt: skip
def test_failure_is_told_in_plain_words_and_deferred(error: Failure, step: Step, stage: Stage, words: str) -> None:
    verdict = classify.failure(error, step, PEER)
    assert (verdict.stage, str(verdict.reply), verdict.remote) == (stage, words, False)
    assert classify.result(0, verdict).outcome is Outcome.DEFERRED


@pytest.mark.parametrize(
    ("error", "step", "said"),
    [
        (SessionRefused(Stage.TLS, Reply(451, "4.7.4", ("not offered",)), False), Step.EHLO,
         "451 4.7.4 mx.y.test [192.0.2.1]:25: not offered; X asks for it"),
        (SessionRefused(Stage.TLS, Reply(502, "5.5.1", ("what?",))), Step.STARTTLS,
         "451 4.7.4 mx.y.test [192.0.2.1]:25 refuses TLS (502 5.5.1 what?); X asks for it"),
        (TimedOut(Step.HANDSHAKE), Step.HANDSHAKE,
         "451 4.4.2 waiting for the end of the TLS handshake of mx.y.test [192.0.2.1]:25 timed out; X asks for it"),
        (SessionRefused(Stage.GREETING, Reply(554, "5.7.1", ("no",))), Step.GREETING, "554 5.7.1 no"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Step.NOTHING,
         "451 4.4.1 mx.y.test [192.0.2.1]:25 refused the connection"),
    ],
)  # fmt: skip
def test_who_asks_for_tls_is_told_where_there_was_none(error: Failure, step: Step, said: str) -> None:
    verdict = classify.failure(error, step, PEER, "X asks for it")
    assert str(verdict.reply) == said
    assert classify.result(0, verdict).outcome is Outcome.DEFERRED


@pytest.mark.parametrize("step", list(Step))
def test_every_step_can_fail(step: Step) -> None:
    for error in (TimedOut(step), PeerClosed(step), RemoteProtocolError("x"), OSError(errno.EPIPE, os.strerror(32))):
        verdict = classify.failure(error, step, PEER)
        assert classify.result(0, verdict).outcome is Outcome.DEFERRED
        assert verdict.stage is not Stage.FINAL_DOT


def test_words_of_the_peer_are_kept() -> None:
    refused = Reply(554, "5.7.1", ("no",))
    assert classify.failure(SessionRefused(Stage.GREETING, refused), Step.NOTHING, PEER) == Verdict(
        Stage.GREETING, refused
    )
    assert classify.failure(PeerClosed(Step.MAIL, SAID), Step.MAIL, PEER) == Verdict(Stage.MAIL, SAID)


@pytest.mark.parametrize(
    "error", [TimedOut(Step.FINAL_DOT), PeerClosed(Step.FINAL_DOT), OSError(errno.EPIPE, "x"), TlsFailed("x")]
)
def test_doubt_shows_by_its_stage_and_is_ours(error: Failure) -> None:
    verdict = classify.doubt(error, PEER)
    assert (verdict.stage, verdict.remote, verdict.reply.enhanced) == (Stage.FINAL_DOT, False, "4.4.2")
    assert not classify.worth_another_host(verdict)


@pytest.mark.parametrize(
    ("stage", "code", "enhanced", "too_many"),
    [
        (Stage.RCPT, 452, "", True),
        (Stage.RCPT, 452, "4.5.3", True),
        (Stage.RCPT, 552, "5.5.3", True),
        (Stage.RCPT, 452, "4.2.2", False),
        (Stage.RCPT, 452, "4.3.1", False),
        (Stage.RCPT, 552, "", False),
        (Stage.RCPT, 552, "5.2.2", False),
        (Stage.DATA, 452, "4.5.3", False),
    ],
)
def test_too_many_recipients_is_told_from_other_lack_of_room(
    stage: Stage, code: int, enhanced: str, too_many: bool
) -> None:
    assert classify.too_many_recipients(Verdict(stage, Reply(code, enhanced))) is too_many


@pytest.mark.parametrize(
    ("verdict", "worth"),
    [
        (Verdict(Stage.RCPT, Reply(451, "4.7.1")), True),
        (Verdict(Stage.FINAL_DOT, Reply(451, "4.3.0")), True),
        (Verdict(Stage.RCPT, Reply(452, "4.2.2")), False),
        (Verdict(Stage.CONNECT, Reply(451, "4.4.1"), False), True),
    ],
)
def test_another_host_is_tried_unless_it_would_say_the_same(verdict: Verdict, worth: bool) -> None:
    assert classify.worth_another_host(verdict) is worth
