"""The sections of mail that comes in: where it is taken, from whom, for whom, and what that may cost."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from postroika.config.named_files import PublicFile, SecretFile
from postroika.config.secret import Secret
from postroika.config.sections_base import Count, CountOrZero, MiB, Seconds, SecondsOrZero, Section, Text


class Listener(Section, frozen=True, kw_only=True):
    """An address to accept SMTP on; several [[listener]] tables may stand in the file."""

    address: Annotated[str, '"address:port", as "127.0.0.1:2525" or "[::1]:2525"; port 0 = any free one.']
    bare_newlines: Annotated[
        Literal["refuse", "normalise"],
        'A CR or LF that is not part of CRLF: "refuse" the message, or "normalise" it (for trusted networks only).',
    ] = "refuse"
    tls: Annotated[
        Literal["none", "starttls", "implicit"],
        "TLS 1.2 or newer: not at all, after STARTTLS (ports 25 and 587), or from the first octet (port 465).",
    ] = "none"
    require_tls: Annotated[
        bool,
        "Take nothing from clients that have not said STARTTLS: they get 530. RFC 3207 4 forbids it where anybody's "
        "mail comes in (port 25).",
    ] = False
    certificate: Annotated[
        PublicFile, "PEM file of our certificate with its chain; needed with TLS. It is read again when it changes."
    ] = ""
    key: Annotated[SecretFile, "PEM file of its private key, without a passphrase; needed with TLS."] = ""
    client_certificates: Annotated[
        Literal["none", "request", "require"],
        "Whether clients are asked for a certificate, and have to have one. One that is shown has to be good.",
    ] = "none"
    client_ca: Annotated[PublicFile, "PEM file of the authorities that client certificates have to come from."] = ""
    role: Annotated[
        Literal["relay", "submission"],
        '"relay" takes mail by the rules of [relay], "submission" (ports 587 and 465) takes it from accounts only.',
    ] = "relay"
    auth_without_tls: Annotated[
        bool, "Let accounts log in without TLS, too; passwords can then be read on the way. For closed networks only."
    ] = False
    proxy_from: Annotated[
        tuple[str, ...],
        "Proxies, by network: a connection from there has to begin with a PROXY header (v1 or v2), which says who the "
        "client is. From others such a header is a bad command.",
    ] = ()
    xclient_from: Annotated[
        tuple[str, ...], "Peers, by network, that may say with XCLIENT who the client is, and as whom it has logged in."
    ] = ()


class Certificate(Section, frozen=True, kw_only=True):
    """A certificate more, for clients that ask for another name (SNI) than that of the listener's own; at all listeners
    with TLS. Several [[certificate]] tables may stand in the file."""

    names: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        'The names it is chosen for: exact, or "*.name" for all names one level below.',
    ]
    certificate: Annotated[PublicFile, Meta(min_length=1), "PEM file of the certificate with its chain."]
    key: Annotated[SecretFile, Meta(min_length=1), "PEM file of its private key, without a passphrase."]


class Relay(Section, frozen=True, kw_only=True):
    """Who may send where. Nobody else may send anything, but for accounts that have logged in."""

    networks: Annotated[tuple[str, ...], "Clients in these networks may send to anywhere."] = (
        "127.0.0.0/8",
        "::1/128",
    )
    domains: Annotated[
        tuple[str, ...],
        'Anyone may send to these domains: exact names, or ".name" for all subdomains of a name. With server.hostname '
        "among them, and a [[route]] for it, mail to <postmaster> is taken from anyone (RFC 5321 4.5.1).",
    ] = ()


class Accounts(Section, frozen=True, kw_only=True):
    """Who may log in, and what becomes of those who try in vain. See docs/accounts.md."""

    file: Annotated[
        SecretFile,
        "The file of accounts that `postroika account` writes, mode 0600; read again when it changes. Empty = none.",
    ] = ""
    failure_delay_s: Annotated[
        SecondsOrZero,
        "Before a failed login is answered; twice as long after each further one from the address, up to 16 times.",
    ] = 1.0
    failures_per_session: Annotated[Count, "Failed logins of one session; then it is ended with 421."] = 3
    failures_per_ip: Annotated[
        Count, "Failed logins from one IPv4 address or IPv6 /64 network within lockout_s; then it is locked out."
    ] = 20
    failures_per_account: Annotated[
        Count, "Failed logins to one account within lockout_s; then it is locked for addresses that are new to it."
    ] = 50
    lockout_s: Annotated[Seconds, "How long who is locked out has to wait, and how long failures are kept."] = 900.0
    hash_threads: Annotated[
        int, Meta(ge=1, le=64), "Threads of each worker that check passwords (about 40 ms and 19 MiB each)."
    ] = 2


class Account(Section, frozen=True, kw_only=True):
    """Somebody who may log in and send. Several [[account]] tables may stand here, or in the file of accounts."""

    name: Annotated[Text, "What is said to log in, as an address or any word; case makes no difference."]
    password: Annotated[
        Secret, "The argon2id hash of the password; empty = none that could log in with PLAIN or LOGIN."
    ] = Secret()
    scram: Annotated[Secret, "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey of it; empty = none."] = Secret()
    tenant: Annotated[str, "Whose mail it is; on each message and event."] = ""
    senders: Annotated[
        tuple[str, ...],
        'Reverse-paths it may use: addresses, "@domain", "@.domain" for all below, "*"; empty = its name.',
    ] = ()
    from_addresses: Annotated[
        tuple[str, ...], "What may stand in From: (in Sender: either), in the same way; empty = as senders."
    ] = ()
    max_connections: Annotated[CountOrZero, "Its sessions at once, over all workers; 0 = any number."] = 0
    max_message_bytes: Annotated[CountOrZero, "Of one message; 0 = limits.max_message_bytes."] = 0
    recipients_per_minute: Annotated[CountOrZero, "Recipients that it may name, over all workers; 0 = any number."] = 0
    recipients_per_hour: Annotated[CountOrZero, "The same for an hour."] = 0
    recipients_per_day: Annotated[CountOrZero, "The same for a day."] = 0
    disabled: Annotated[bool, "It may not log in; sessions that are open get no further."] = False


class Limits(Section, frozen=True, kw_only=True):
    """What one client, one session, one message may cost."""

    max_message_bytes: Annotated[Count, "Announced as SIZE; a larger message is refused with 552."] = 50 * MiB
    max_recipients: Annotated[
        int,
        Meta(ge=100, le=1_000_000),
        "Recipients of one message; the next one gets 452. At least 100 (RFC 5321 4.5.3.1.8).",
    ] = 5000
    max_connections: Annotated[Count, "Clients at once, over all workers; the next one gets 421."] = 10_000
    max_connections_per_ip: Annotated[Count, "Of those, from one address, or one IPv6 network (/64)."] = 1_000
    max_bad_commands: Annotated[Count, "Commands of one session that may be wrong before it is ended with 421."] = 20
    max_junk_commands: Annotated[
        CountOrZero,
        "NOOP, RSET, VRFY, HELP, EHLO, HELO and refused BDAT LAST of one session since the last message that was "
        "accepted; each further one counts as wrong. 0 = any number.",
    ] = 100
    max_received: Annotated[Count, "Received: fields in a message; more is a mail loop."] = 50
    max_header_bytes: Annotated[Count, "The header of a message."] = 1 * MiB
    idle_timeout_s: Annotated[
        Seconds, "For the next command outside a transaction. RFC 5321 4.5.3.2.7 wants at least 300."
    ] = 300.0
    command_timeout_s: Annotated[
        Seconds, "For the next command inside a transaction, and for any command from its first octet to its end."
    ] = 300.0
    data_timeout_s: Annotated[Seconds, "Between two pieces of a message."] = 180.0
    transaction_timeout_s: Annotated[Seconds, "From MAIL to the end of the message."] = 3600.0
    commit_timeout_s: Annotated[Seconds, "For the spool to make a message durable; then the client gets 451."] = 60.0
    policy_timeout_s: Annotated[Seconds, "For the policy to judge one command."] = 30.0
    tls_handshake_timeout_s: Annotated[Seconds, "For a client to come through the TLS handshake."] = 30.0
    proxy_timeout_s: Annotated[Seconds, "For a proxy to send its PROXY header; then the connection is dropped."] = 5.0


class Policy(Section, frozen=True, kw_only=True):
    """What clients are asked about, and in which order: the first check with a verdict is the last one. Accounts and
    [relay] come before all of it. Trusted networks ([relay] networks), `exempt` ones, and who has logged in pass all
    checks but the hooks. See docs/policy.md."""

    connect: Annotated[tuple[str, ...], 'Checks of those who have just come: "rates", "blocklists", "hooks".'] = (
        "rates",
        "hooks",
    )
    ehlo: Annotated[tuple[str, ...], 'At EHLO and HELO: "blocklists", "hooks".'] = ("hooks",)
    mail: Annotated[tuple[str, ...], 'At MAIL: "rates", "null_sender", "blocklists", "sender_domain", "hooks".'] = (
        "rates",
        "null_sender",
        "sender_domain",
        "hooks",
    )
    rcpt: Annotated[tuple[str, ...], 'At each RCPT: "rates", "null_sender", "blocklists", "hooks".'] = (
        "null_sender",
        "rates",
        "blocklists",
        "hooks",
    )
    data: Annotated[tuple[str, ...], 'At DATA, and the first BDAT: "hooks".'] = ("hooks",)
    message: Annotated[tuple[str, ...], 'When the message has been received, before it is accepted: "hooks".'] = (
        "hooks",
    )
    exempt: Annotated[tuple[str, ...], "More networks that pass all checks but the hooks; they may not relay."] = ()
    ipv4_net_bits: Annotated[
        int, Meta(ge=8, le=32), "The length of an IPv4 client's network, for the limits below."
    ] = 24
    ipv6_net_bits: Annotated[
        int, Meta(ge=16, le=64), "The same for IPv6, where all of a /64 network counts as one client anyway."
    ] = 48
    max_connections_per_net: Annotated[
        CountOrZero, "Clients of one network at once, over all workers; the next one gets 421. 0 = any number."
    ] = 0
    connections_per_minute: Annotated[CountOrZero, "Of one client, over all workers; 0 = any number."] = 0
    messages_per_minute: Annotated[
        CountOrZero, "MAIL commands of one client; the next one gets 450. 0 = any number."
    ] = 0
    recipients_per_minute: Annotated[
        CountOrZero, "Recipients that one client names; the next one gets 450. 0 = any number."
    ] = 0
    net_connections_per_minute: Annotated[CountOrZero, "The same for a network: connections; 0 = any number."] = 0
    net_messages_per_minute: Annotated[CountOrZero, "MAIL commands of a network; 0 = any number."] = 0
    net_recipients_per_minute: Annotated[CountOrZero, "Recipients that a network names; 0 = any number."] = 0
    null_sender_recipients: Annotated[
        CountOrZero, "Recipients of a message from <>; the next one gets 452. 0 = any number."
    ] = 0
    null_sender_messages_per_minute: Annotated[
        CountOrZero, "Messages from <> of one client, over all workers; 0 = any number."
    ] = 0
    sender_domain_resolves: Annotated[
        bool,
        "Refuse mail whose reverse-path has a domain without MX and address records, or with a null MX; defer it if "
        "DNS fails to say.",
    ] = False
    dns_timeout_s: Annotated[Seconds, "For one look-up of a check."] = 5.0
    hooks: Annotated[
        PublicFile,
        "A file of Python with checks of your own (docs/hooks.md), read anew on SIGHUP; empty = none.",
    ] = ""


class Blocklist(Section, frozen=True, kw_only=True):
    """A DNS block list (DNSBL) whose clients are refused, where [policy] says "blocklists". Several [[blocklist]]
    tables may stand in the file."""

    zone: Annotated[Text, "The domain of the list; an address is looked up as 2.2.0.192.ZONE."]
    answers: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        "Answers that mean that a client is to be refused: addresses, or networks, in 127.0.0.0/8.",
    ] = ("127.0.0.0/24",)
    reply: Annotated[Text, "What the client is told, behind 550 5.7.1; {ip} and {zone} are filled in."] = (
        "{ip} is listed at {zone}"
    )
