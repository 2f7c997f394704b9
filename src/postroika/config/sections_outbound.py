"""The sections of mail that goes out: where to, how, signed with what, and when again."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from postroika.config.named_files import CertificateFile, PublicFile, SecretFile
from postroika.config.sections_base import Count, CountOrZero, MiB, Seconds, SecondsOrZero, Section, Text


class Route(Section, frozen=True, kw_only=True):
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


class Dns(Section, frozen=True, kw_only=True):
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


class Sts(Section, frozen=True, kw_only=True):
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


class Delivery(Section, frozen=True, kw_only=True):
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


class Dkim(Section, frozen=True, kw_only=True):
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


class Signing(Section, frozen=True, kw_only=True):
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


class Tlsrpt(Section, frozen=True, kw_only=True):
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


class Retry(Section, frozen=True, kw_only=True):
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
