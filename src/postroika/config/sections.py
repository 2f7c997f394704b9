"""The sections of the config file as frozen structs: every key with its type, bounds, meaning and default.

This is the one source for decoding, for the commented default config and for docs/config.md. Bounds that one key can
break alone are declared here; what takes more than one look is in `check`.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from postroika.config.named_files import CertificateFile, PublicFile, SecretFile
from postroika.config.secret import Secret

MiB = 1024 * 1024

# No wait is longer than a year, which also refuses TOML's `inf`; `nan` fails every bound.
_YEAR_S = 365 * 86_400

Seconds = Annotated[float, Meta(gt=0, le=_YEAR_S)]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_YEAR_S)]
Count = Annotated[int, Meta(ge=1, le=2**53)]
CountOrZero = Annotated[int, Meta(ge=0, le=2**53)]
Text = Annotated[str, Meta(min_length=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Server(_Section, frozen=True, kw_only=True):
    """Who we are and where our files are. Relative paths are relative to the directory of this file."""

    hostname: Annotated[str, "Our name: in the greeting, in Received: and in bounces. Empty = the machine's name."] = ""
    workers: Annotated[int, Meta(ge=0, le=256), "Worker processes; 0 = one per core."] = 0
    spool: Annotated[Text, "The directory that keeps accepted mail, one shard a worker."] = "var/spool"
    control: Annotated[Text, "The Unix socket through which `postroika queue` and others talk to the server."] = (
        "var/control.sock"
    )


class Process(_Section, frozen=True, kw_only=True):
    """Who the server runs as, when root starts it: root opens the listeners and reads the keys, and does no more."""

    user: Annotated[
        str,
        "The user, by name or number, that the supervisor and its workers become for good. Empty = whoever starts the "
        'server, and root must not. "root" lets everything run as root: for trying things out only.',
    ] = ""
    group: Annotated[str, "The group, by name or number; empty = that of the user. There are no further ones."] = ""
    umask: Annotated[str, "Permissions that no new file has, in octal."] = "077"


class Listener(_Section, frozen=True, kw_only=True):
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


class Certificate(_Section, frozen=True, kw_only=True):
    """A certificate more, for clients that ask for another name (SNI) than that of the listener's own; at all listeners
    with TLS. Several [[certificate]] tables may stand in the file."""

    names: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        'The names it is chosen for: exact, or "*.name" for all names one level below.',
    ]
    certificate: Annotated[PublicFile, Meta(min_length=1), "PEM file of the certificate with its chain."]
    key: Annotated[SecretFile, Meta(min_length=1), "PEM file of its private key, without a passphrase."]


class Relay(_Section, frozen=True, kw_only=True):
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


class Accounts(_Section, frozen=True, kw_only=True):
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


class Account(_Section, frozen=True, kw_only=True):
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
    from_addresses: Annotated[tuple[str, ...], "What may stand in From:, in the same way; empty = as senders."] = ()
    max_connections: Annotated[CountOrZero, "Its sessions at once, over all workers; 0 = any number."] = 0
    max_message_bytes: Annotated[CountOrZero, "Of one message; 0 = limits.max_message_bytes."] = 0
    recipients_per_minute: Annotated[CountOrZero, "Recipients that it may name, over all workers; 0 = any number."] = 0
    recipients_per_hour: Annotated[CountOrZero, "The same for an hour."] = 0
    recipients_per_day: Annotated[CountOrZero, "The same for a day."] = 0
    disabled: Annotated[bool, "It may not log in; sessions that are open get no further."] = False


class Route(_Section, frozen=True, kw_only=True):
    """Where the mail of some domains goes. The first [[route]] that matches wins; without any, all goes by MX."""

    domains: Annotated[
        tuple[str, ...],
        Meta(min_length=1),
        'Exact names, ".name" for all subdomains of a name, "*" for every domain.',
    ]
    next_hop: Annotated[
        str | tuple[str, ...],
        '"mx"; or "smtp://host:port" (a smarthost: no MX look-up, may be loopback), "smtps://host:port" (the same, '
        "with TLS from the first octet on); or a list of those.",
    ] = "mx"
    tls: Annotated[
        Literal["none", "opportunistic", "required", "verify"],
        "Encryption on the way there: not at all; where it can be had; always; always, and the certificate has to be "
        "good for the name of the host. Mail that may not go otherwise waits.",
    ] = "opportunistic"
    auth: Annotated[
        SecretFile,
        "A file with `user` and `password` (TOML, mode 0600) to log in with at a smarthost; empty = without.",
    ] = ""
    auth_without_tls: Annotated[bool, "Log in though the connection is not encrypted, for all to read."] = False
    certificate: Annotated[
        CertificateFile, "A file with the certificate (PEM, with its chain) to show to a host that asks."
    ] = ""
    key: Annotated[SecretFile, "The file with its key; empty = it is in the file of the certificate."] = ""


class Dns(_Section, frozen=True, kw_only=True):
    """How names are looked up."""

    servers: Annotated[
        tuple[str, ...],
        'Name servers by address, as "127.0.0.1:5353" or "[::1]"; empty = those of the system.',
    ] = ()
    validating: Annotated[
        bool,
        "All of `servers` check DNSSEC, and nobody can change answers on the way from them to us: run one on this "
        "machine. Then DANE is used: where a domain publishes TLSA records, they say how its mail is encrypted.",
    ] = False
    timeout_s: Annotated[Seconds, "For one look-up with all its retries; then the mail is deferred."] = 10.0
    cache_entries: Annotated[Count, "Answers kept in memory by each worker."] = 20_000
    max_ttl_s: Annotated[SecondsOrZero, "An answer is kept for its own TTL, but not longer than this."] = 3600.0
    negative_ttl_s: Annotated[
        SecondsOrZero, "How long it is remembered that a name or record does not exist, at most."
    ] = 60.0
    max_mx: Annotated[Count, "MX hosts that are considered for one domain; the rest is ignored."] = 20
    max_addresses: Annotated[Count, "Addresses that are tried for one domain in one attempt."] = 30
    mx_port: Annotated[int, Meta(ge=1, le=65535), "The port of MX hosts; other than 25 only in test networks."] = 25
    ipv6: Annotated[
        Literal["prefer", "equal", "after_ipv4", "never"],
        "How IPv6 addresses of a host are ordered against its IPv4 addresses.",
    ] = "equal"
    allow_private: Annotated[
        tuple[str, ...],
        "Loopback or private networks that answers may point into; all others are refused.",
    ] = ()


class Sts(_Section, frozen=True, kw_only=True):
    """Policies by which domains ask for verified TLS from those who send to them (MTA-STS). See docs/mta-sts.md."""

    enabled: Annotated[bool, "Heed them, where mail goes by MX; costs a look-up (TXT) for each domain."] = True
    timeout_s: Annotated[
        Seconds, "To fetch a policy; the first mail to a domain waits for it (RFC 8461 3.3 suggests 60)."
    ] = 60.0
    retry_s: Annotated[
        Seconds, "How long a policy that could not be fetched is not asked for again (RFC 8461 3.3)."
    ] = 300.0
    refresh_s: Annotated[
        Seconds, "A policy that is that old, or half as old as it may get, is fetched anew though it has the same id."
    ] = 86_400.0
    max_policy_bytes: Annotated[
        int, Meta(ge=1024, le=MiB), "A policy that is larger is none (RFC 8461 3.3 suggests 64 KB)."
    ] = 65_536
    cache_entries: Annotated[Count, "Policies kept on disk, for all workers; those that were of use last."] = 10_000
    ca: Annotated[
        PublicFile, "PEM file of those who may vouch for the certificates of policy hosts; empty = those of the system."
    ] = ""
    port: Annotated[int, Meta(ge=1, le=65535), "The port of policy hosts; other than 443 only in test networks."] = 443


class Limits(_Section, frozen=True, kw_only=True):
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


class Policy(_Section, frozen=True, kw_only=True):
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


class Blocklist(_Section, frozen=True, kw_only=True):
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


class Delivery(_Section, frozen=True, kw_only=True):
    """How mail goes out."""

    enabled: Annotated[bool, "false: accept and keep, deliver nothing."] = True
    ehlo_name: Annotated[str, "The name we say in EHLO; empty = server.hostname."] = ""
    source_address: Annotated[str, "The local address to connect from; empty = the system chooses."] = ""
    max_connections: Annotated[
        Count, "Connections at once, over all workers (each has an equal share, at least 1)."
    ] = 500
    max_connections_per_site: Annotated[Count, "Of those, to hosts that share their MX set."] = 20
    initial_connections_per_site: Annotated[Count, "To a site that has not yet shown that it takes more."] = 4
    max_messages_per_connection: Annotated[Count, "Messages over one connection before it is replaced."] = 1000
    max_recipients_per_batch: Annotated[
        Count, "Recipients of one message and one domain that are handed over in one transaction."
    ] = 100
    connection_idle_s: Annotated[SecondsOrZero, "How long a connection without work is kept for the next message."] = (
        5.0
    )
    connect_timeout_s: Annotated[Seconds, "To open a TCP connection to one address."] = 30.0
    greeting_timeout_s: Annotated[Seconds, "For the greeting (RFC 5321 4.5.3.2.1: 300)."] = 300.0
    ehlo_timeout_s: Annotated[Seconds, "For the reply to EHLO or HELO."] = 300.0
    mail_timeout_s: Annotated[Seconds, "For the reply to MAIL (RFC 5321 4.5.3.2.2: 300)."] = 300.0
    rcpt_timeout_s: Annotated[Seconds, "For the reply to RCPT (RFC 5321 4.5.3.2.3: 300)."] = 300.0
    data_timeout_s: Annotated[Seconds, "For the reply to DATA (RFC 5321 4.5.3.2.4: 120)."] = 120.0
    body_timeout_s: Annotated[
        Seconds, "For the peer to take the next piece of a message (RFC 5321 4.5.3.2.5: 180)."
    ] = 180.0
    final_dot_timeout_s: Annotated[Seconds, "For the reply to the whole message (RFC 5321 4.5.3.2.6: 600)."] = 600.0
    quit_timeout_s: Annotated[Seconds, "For the reply to QUIT."] = 5.0
    tls_ca: Annotated[
        PublicFile,
        "A file (PEM) of those who may vouch for the certificates of next hops; empty = those of the system.",
    ] = ""
    tls_handshake_timeout_s: Annotated[Seconds, "To agree on encryption with a next hop."] = 60.0
    tls_fallback_s: Annotated[
        SecondsOrZero,
        "How long it is remembered that encryption with a host, or the check of its certificate, came to nothing.",
    ] = 3600.0
    pipelining: Annotated[bool, "Use PIPELINING where it is offered."] = True
    chunking: Annotated[bool, "Use CHUNKING where it is offered."] = True
    loaded_batches: Annotated[Count, "Batches that each worker holds in memory; the rest waits on disk."] = 20_000
    active_destinations: Annotated[Count, "Destinations that each worker works on at once."] = 2_000
    body_memory_bytes: Annotated[
        CountOrZero,
        "Bodies of fresh messages that each worker keeps in memory for the first attempt.",
    ] = 64 * MiB


class Dkim(_Section, frozen=True, kw_only=True):
    """A key that mail is signed with when it goes out (DKIM). Several [[dkim]] tables may stand in the file; those of
    one tenant and domain all sign (an RSA and an Ed25519 key, say). Mail that none is for goes unsigned, and so
    does that of strangers (not from an account, not from [relay] networks)."""

    tenant: Annotated[str, "Whose mail; empty = that of every tenant that has no key of its own for it."] = ""
    domain: Annotated[
        Text,
        'The domain in From: an exact name, ".name" for all subdomains of a name, "*" for every domain. Exact names go '
        "before subdomains, longer names before shorter ones.",
    ]
    selector: Annotated[Text, "The name of the key in the DNS: its record is at SELECTOR._domainkey.DOMAIN."]
    key: Annotated[
        SecretFile,
        Meta(min_length=1),
        "PEM file of the private key, RSA or Ed25519, as `postroika dkim keygen` makes it.",
    ]
    signing_domain: Annotated[
        str, 'The domain that signs (d=); empty = `domain`, without a dot in front. Must be given with "*".'
    ] = ""
    identity: Annotated[
        str, 'For whom it signs (i=), as "@news.shop.example": in the domain that signs, or below it. Empty = left out.'
    ] = ""


class Signing(_Section, frozen=True, kw_only=True):
    """How mail is signed, with whichever key."""

    oversigned: Annotated[
        tuple[Text, ...],
        "Header fields that are signed, those of them that are missing, too: none can be added on the way. Empty = "
        "From, Reply-To, Subject, Date, To, Cc, Message-ID, MIME-Version, Content-Type, Content-Transfer-Encoding, "
        "List-Unsubscribe, List-Unsubscribe-Post.",
    ] = ()
    signed: Annotated[
        tuple[Text, ...],
        "Header fields that are signed where they are there. Empty = Sender, In-Reply-To, References, Content-ID, "
        "Content-Description, all Resent- and the other List- fields, Feedback-ID, and those of TLS reports.",
    ] = ()
    expire_after_s: Annotated[
        SecondsOrZero, "A signature holds for so long (x=), and is made anew before; 0 = for ever."
    ] = 0.0
    min_rsa_bits: Annotated[
        int, Meta(ge=1024, le=4096), "A shorter RSA key is refused (RFC 8301: at least 1024, better 2048)."
    ] = 2048
    timeout_s: Annotated[Seconds, "For the signatures of one message; then it is deferred."] = 120.0
    cached_messages: Annotated[
        Count, "Messages whose signatures each worker remembers, for the other batches of the message."
    ] = 4096


class Tlsrpt(_Section, frozen=True, kw_only=True):
    """Reports to other domains about TLS with their mail hosts (RFC 8460). They are sent if `contact` is given. See
    docs/tlsrpt.md."""

    contact: Annotated[
        str,
        "Our address that reports come from, in a domain that a [[dkim]] key signs for: unsigned reports do not count. "
        "Empty = nothing is counted or sent.",
    ] = ""
    organization: Annotated[str, "Who reports, in words; empty = the domain of the contact."] = ""
    max_delay_s: Annotated[
        float,
        Meta(ge=300, le=64_800),
        "Reports about a day are begun at a random time up to so long after its end (UTC).",
    ] = 14_400.0
    max_domains: Annotated[
        int, Meta(ge=1, le=1_000_000), "Domains whose sessions each worker counts in a day; more are left out."
    ] = 10_000
    post_timeout_s: Annotated[Seconds, "For a report to be handed over where a domain wants it over HTTPS."] = 60.0


class Retry(_Section, frozen=True, kw_only=True):
    """When to try again, and when to stop."""

    delays_s: Annotated[
        tuple[Seconds, ...],
        Meta(min_length=1),
        "The wait after the first, second, … attempt; the last one repeats.",
    ] = (300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0)
    jitter: Annotated[
        float,
        Meta(ge=0, lt=1),
        "Each wait is stretched or cut by up to this share of it, so that retries spread.",
    ] = 0.1
    expire_after_s: Annotated[Seconds, "A message that old is returned to its sender."] = 432_000.0
    delay_dsn_after_s: Annotated[
        SecondsOrZero, "The sender is told once that a message waits for that long; 0 = never."
    ] = 14_400.0
    down_delays_s: Annotated[
        tuple[Seconds, ...],
        Meta(min_length=1),
        "How long a destination that cannot be reached at all is left alone; the last one repeats.",
    ] = (30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Spool(_Section, frozen=True, kw_only=True):
    """The store of accepted mail."""

    max_bytes: Annotated[
        int, Meta(ge=MiB, le=2**46), "How large one shard may grow: address space, not reserved disk."
    ] = 256 * 1024 * MiB
    low_water_bytes: Annotated[
        CountOrZero,
        "With less space than this, mail gets 452: the room is for done-marks and bounces.",
    ] = 64 * MiB
    lock_wait_s: Annotated[SecondsOrZero, "How long a start waits for another instance to let go of the spool."] = 10.0


class Log(_Section, frozen=True, kw_only=True):
    """What is written down."""

    events: Annotated[str, "The file of events, one JSON object a line; empty = none."] = "var/log/events.jsonl"
    rotate_bytes: Annotated[Count, "The file of events is renamed when it is that large."] = 256 * MiB
    keep: Annotated[CountOrZero, "Renamed files of events that are kept."] = 10
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        "The least severe message of the operations log, on stderr.",
    ] = "info"


class Sink(_Section, frozen=True, kw_only=True):
    """A built-in SMTP sink that `postroika serve` starts beside the server, for trying things out."""

    address: Annotated[str, '"address:port", loopback only.']
    refuse: Annotated[tuple[str, ...], "Recipients that it refuses for good (550); * matches any text."] = ("bounce@*",)
    defer: Annotated[tuple[str, ...], "Recipients that it refuses for now (450); * matches any text."] = ("defer@*",)


class Config(_Section, frozen=True, kw_only=True):
    """The whole file."""

    server: Server = Server()
    process: Process = Process()
    listener: tuple[Listener, ...] = (Listener(address="127.0.0.1:2525"),)
    certificate: tuple[Certificate, ...] = ()
    relay: Relay = Relay()
    accounts: Accounts = Accounts()
    account: tuple[Account, ...] = ()
    route: tuple[Route, ...] = (Route(domains=("*",)),)
    dns: Dns = Dns()
    sts: Sts = Sts()
    limits: Limits = Limits()
    policy: Policy = Policy()
    blocklist: tuple[Blocklist, ...] = ()
    delivery: Delivery = Delivery()
    dkim: tuple[Dkim, ...] = ()
    signing: Signing = Signing()
    tlsrpt: Tlsrpt = Tlsrpt()
    retry: Retry = Retry()
    spool: Spool = Spool()
    log: Log = Log()
    sink: Sink | None = None


def _struct_in(kind: object) -> type[msgspec.Struct]:
    return next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, msgspec.Struct))


SECTIONS: dict[str, type[msgspec.Struct]] = {f.name: _struct_in(f.type) for f in msgspec.structs.fields(Config)}
"""The struct of each section by its name in the file."""
