"""Envelopes, recipients and batches, as they are kept in the spool. docs/spool-format.md tells their bytes.

None of these records can be part of a cycle, so the garbage collector is told to leave them alone (gc=False).
"""

from __future__ import annotations

import enum

import msgspec

from postroika.mail.reply import Reply


class Notify(enum.IntFlag):
    """RCPT NOTIFY= (RFC 3461 §4.1). NONE: not given, that is FAILURE and perhaps DELAY."""

    NONE = 0
    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


class BodyType(enum.IntEnum):
    """MAIL BODY= (RFC 6152, RFC 3030)."""

    SEVEN_BIT = 0
    EIGHT_BIT = 1
    BINARY = 2


class Stream(enum.IntEnum):
    """Two kinds of mail that must not wait for each other."""

    TRANSACTIONAL = 0
    BROADCAST = 1


class Recipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One RCPT TO.

    Args:
        address: local-part@domain without brackets; the domain in lower case, the local part as given.
        notify: NOTIFY flags as an int.
        orcpt: ORCPT as given, "rfc822;xtext", or "".
        number: position among all recipients of the message, from 0; stays the same when others are crossed off.
    """

    address: str
    notify: int = 0
    orcpt: str = ""
    number: int = 0


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What all batches of a message share. Times in epoch seconds; 0 where there is none.

    Args:
        message: the message id.
        reverse_path: MAIL FROM without brackets, "" for the null sender.
        size_bytes: octets of the stored message, the Received field that we stamped included.
        chunks: how many values hold the body.
        batches: into how many batches the message was split when it was accepted.
        body_type: as declared by BODY=.
        eight_bit: the header or body really has octets ≥ 128.
        smtputf8: MAIL had SMTPUTF8, and it must be asked for again at the next hop if an address or a header
            needs it (`utf8_needed`).
        ret: RET=, "FULL", "HDRS" or "".
        envid: ENVID= as given (xtext), or "".
        not_before, expires_at: 0 = now, the configured time.
        client_ip, client_helo: who gave it to us.
        requiretls: MAIL had REQUIRETLS: it goes on over verified TLS only, to who promises the same (RFC 8689).
        tls: version and cipher that it came in with, or "".
        account: the one that had logged in, "" if none had.
        ours: from an account, from [relay] networks, or made by us, so that our keys may sign it; a stranger's mail is
            not. Older records do not say, and count as a stranger's: unsigned mail is mended by sending it again, a
            signature under a forgery by nothing.
    """

    message: int
    reverse_path: str
    received_at: float
    size_bytes: int
    chunks: int
    batches: int = 1
    body_type: BodyType = BodyType.SEVEN_BIT
    eight_bit: bool = False
    smtputf8: bool = False
    utf8_needed: bool = False
    ret: str = ""
    envid: str = ""
    tenant: str = ""
    stream: Stream = Stream.TRANSACTIONAL
    campaign: str = ""
    not_before: float = 0.0
    expires_at: float = 0.0
    client_ip: str = ""
    client_helo: str = ""
    requiretls: bool = False
    tls: str = ""
    account: str = ""
    ours: bool = False


class Batch(msgspec.Struct, array_like=True, gc=False):
    """The recipients of one message that share a routing domain and are not settled yet.

    Args:
        envelope: shared with the other batches of the message, stored in each so that one read loads all.
        number: among the batches of the message.
        destination: the routing domain, lower case, A-labels or an address literal "[192.0.2.1]".
        recipients: those that are still open.
        class_id: the interned (stream, tenant, campaign).
        due_ms: epoch milliseconds; part of the key in the ready index.
        attempts: tries that reached for the network.
        deferrals: how often recipients were told "deferred" (an attempt, or the destination being down).
        delay_noted: a delay DSN has been sent.
        last_reply: of the latest deferral, or None.
        last_host: who gave `last_reply`, "" if it was ours.
    """

    envelope: Envelope
    number: int
    destination: str
    recipients: tuple[Recipient, ...]
    class_id: int
    due_ms: int
    attempts: int = 0
    deferrals: int = 0
    delay_noted: bool = False
    last_reply: Reply | None = None
    last_host: str = ""
