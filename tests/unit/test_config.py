"""What a config file may say, and how it is told that it may not."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest

from postroika.config import (
    SECTIONS,
    Account,
    Certificate,
    Config,
    Listener,
    Relay,
    Route,
    Secret,
    Server,
    Sink,
    default_text,
    find,
    load,
    parse,
    to_toml,
)
from postroika.config.file import qualified
from postroika.errors import ConfigError
from tools import config_page

FILE = Path("/etc/mail/p.toml")


def problems(text: str) -> list[str]:
    """The lines of the error for `text`, without the name of the file, which every line has to begin with."""
    with pytest.raises(ConfigError) as caught:
        parse(text, FILE)
    lines = str(caught.value).split("\n")
    assert all(line.startswith("/etc/mail/p.toml: ") for line in lines)
    return [line.removeprefix("/etc/mail/p.toml: ") for line in lines]


def settled(config: Config) -> Config:
    """`config` as `parse` returns it for a file in /etc/mail on a machine named mx.shop.example."""
    server = msgspec.structs.replace(
        config.server,
        hostname=config.server.hostname or "mx.shop.example",
        spool=f"/etc/mail/{config.server.spool}",
        control=f"/etc/mail/{config.server.control}",
    )
    log = msgspec.structs.replace(config.log, events=f"/etc/mail/{config.log.events}")
    return msgspec.structs.replace(config, server=server, log=log)


def test_empty_file_means_the_defaults_with_absolute_paths() -> None:
    assert parse('server.hostname = "mx.shop.example"', FILE) == settled(Config())


def test_files_of_routes_are_made_absolute() -> None:
    text = """
[delivery]
tls_ca = "ca.pem"
[[route]]
domains = ["*"]
next_hop = "smtps://relay.example"
auth = "relay.toml"
certificate = "/etc/ssl/us.pem"
"""
    config = parse(text, FILE)
    assert config.delivery.tls_ca == "/etc/mail/ca.pem"
    assert config.route == (
        Route(
            domains=("*",),
            next_hop="smtps://relay.example",
            auth="/etc/mail/relay.toml",
            certificate="/etc/ssl/us.pem",
        ),
    )


def test_absolute_paths_and_no_event_log_stay() -> None:
    config = parse('[server]\nspool = "/srv/spool"\ncontrol = "/run/p.sock"\n[log]\nevents = ""', FILE)
    assert (config.server.spool, config.server.control, config.log.events) == ("/srv/spool", "/run/p.sock", "")


@pytest.mark.parametrize(
    ("node", "hostname"),
    [
        ("mx.shop.example", "mx.shop.example"),
        ("box", "box.localdomain"),
        ("under_score", "localhost.localdomain"),
        ("10.0.0.7", "localhost.localdomain"),
        ("", "localhost.localdomain"),
    ],
)
def test_host_name_of_a_machine_is_qualified(node: str, hostname: str) -> None:
    assert qualified(node) == hostname


def test_host_name_left_open_is_that_of_the_machine() -> None:
    assert parse("", FILE).server.hostname == qualified(os.uname().nodename)


def test_domains_come_out_in_lower_case_as_a_labels() -> None:
    config = parse(
        '[relay]\ndomains = ["Shop.Example.", ".BÜCHER.example"]\n[[route]]\ndomains = ["*"]\n'
        'next_hop = ["smtp://a.example", "smtp://[::1]:2526"]',
        FILE,
    )
    assert config.relay == Relay(domains=("shop.example", ".xn--bcher-kva.example"))
    assert config.route == (Route(domains=("*",), next_hop=("smtp://a.example", "smtp://[::1]:2526")),)


# -- unknown keys


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[listner]", "listner: unknown key; did you mean 'listener'?"),
        ("[server]\nworker = 1", "server.worker: unknown key; did you mean 'workers'?"),
        ("[server]\nhost-name = 'x'", "server.host-name: unknown key; did you mean 'hostname'?"),
        ("[[listener]]\nadress = ':25'", "listener[0].adress: unknown key; did you mean 'address'?"),
        ("[[route]]\ndomains = ['a']\n[[route]]\ndomain = ['b']", "route[1].domain: unknown key; did you mean 'domains'?"),
        ("[retry]\nexpire_after = 3", "retry.expire_after: unknown key; did you mean 'expire_after_s'?"),
        ("[sink]\nxyzzy = 1", "sink.xyzzy: unknown key; known here: address, refuse, defer"),
        ("[server.tls]\nx = 1", "server.tls: unknown key; known here: hostname, workers, spool, control"),
        ("hostname = 'a.example'", "hostname: unknown key; it belongs into [server]"),
        ("xyzzy = 1", f"xyzzy: unknown key; known here: {', '.join(SECTIONS)}"),
    ],
)  # fmt: skip
def test_unknown_key_is_named_with_the_nearest_that_is_known(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_all_unknown_keys_are_told_at_once() -> None:
    assert problems("[log]\nlevl = 1\n[dns]\nserver = 2") == [
        "log.levl: unknown key; did you mean 'level'?",
        "dns.server: unknown key; did you mean 'servers'?",
    ]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_refuses_unknown_keys(section: str) -> None:
    [problem] = problems(f"[{section}]\nqqqqqqqqqqqqqq = 1")
    assert problem.startswith(f"{section}.qqqqqqqqqqqqqq: unknown key; known here: ")


# -- types and bounds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nworkers = 'two'", "server.workers: expected a whole number, got a string"),
        ("[server]\nworkers = true", "server.workers: expected a whole number, got true or false"),
        ("[server]\nworkers = 1.5", "server.workers: expected a whole number, got a number"),
        ("[server]\nhostname = 5", "server.hostname: expected a string, got a whole number"),
        ("[delivery]\nenabled = 'yes'", "delivery.enabled: expected true or false, got a string"),
        ("[relay]\nnetworks = '10.0.0.0/8'", "relay.networks: expected a list, got a string"),
        ("[relay]\nnetworks = [10]", "relay.networks[0]: expected a string, got a whole number"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 25", "route[0].next_hop: expected a string or a list, got a whole number"),
        ("server = 3", "server: expected a table, got a whole number"),
        ("[[server]]", "server: expected a table, got a list; write [server]"),
        ("[listener]\naddress = ':1'", "listener: expected a list, got a table; write [[listener]]"),
        ("listener = ['127.0.0.1:25']", "listener[0]: expected a table, got a string"),
        ("[[listener]]", "listener[0]: the key 'address' is missing"),
        ("[sink]", "sink: the key 'address' is missing"),
        ("[log]\nlevel = 'trace'", "log.level: 'trace' is not one of 'debug', 'info', 'warning', 'error'"),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nbare_newlines = 'keep'",
            "listener[0].bare_newlines: 'keep' is not one of 'refuse', 'normalise'",
        ),
        ("[server]\nworkers = -1", "server.workers: expected a whole number >= 0"),
        ("[server]\nworkers = 257", "server.workers: expected a whole number <= 256"),
        ("[server]\nspool = ''", "server.spool: expected a string of length >= 1"),
        ("[limits]\nmax_recipients = 99", "limits.max_recipients: expected a whole number >= 100"),
        ("[limits]\nidle_timeout_s = 0", "limits.idle_timeout_s: expected a number > 0.0"),
        ("[limits]\nidle_timeout_s = nan", "limits.idle_timeout_s: expected a number > 0.0"),
        ("[limits]\nidle_timeout_s = inf", "limits.idle_timeout_s: expected a number <= 31536000.0"),
        ("[retry]\ndelays_s = []", "retry.delays_s: expected a list of length >= 1"),
        ("[retry]\ndelays_s = [300, 0]", "retry.delays_s[1]: expected a number > 0.0"),
        ("[retry]\njitter = 1", "retry.jitter: expected a number < 1.0"),
        ("[dns]\nmx_port = 65536", "dns.mx_port: expected a whole number <= 65535"),
        ("[[route]]\ndomains = []", "route[0].domains: expected a list of length >= 1"),
    ],
)  # fmt: skip
def test_wrong_type_or_bound_is_told_in_the_words_of_toml(text: str, expected: str) -> None:
    assert problems(text) == [expected]


# -- values that cannot be meant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listener = []", "listener: at least one [[listener]] is needed"),
        ("[server]\nhostname = 'two words'", "server.hostname: 'two words' is not a host name"),
        ("[server]\nhostname = '192.0.2.1'", "server.hostname: '192.0.2.1' is not a host name"),
        ("[server]\nhostname = 'mx.example.'", "server.hostname: 'mx.example.' is not a host name"),
        ("[process]\numask = '9'", "process.umask: '9' is not a mask in octal, as 077"),
        ("[process]\numask = '0o077'", "process.umask: '0o077' is not a mask in octal, as 077"),
        ("[process]\ngroup = 'mail'", "process.group: needs process.user beside it"),
        ("[delivery]\nehlo_name = 'a_b.example'", "delivery.ehlo_name: 'a_b.example' is not a host name"),
        ("[delivery]\nsource_address = 'eth0'", "delivery.source_address: 'eth0' is not an IP address"),
        ("[[listener]]\naddress = 'localhost:25'", "listener[0].address: 'localhost' is not an IP address; names are not looked up here"),
        ("[[listener]]\naddress = '127.0.0.1'", "listener[0].address: '127.0.0.1' has no port"),
        ("[[listener]]\naddress = ':25'", "listener[0].address: ':25' names no host"),
        ("[[listener]]\naddress = '::1:25'", "listener[0].address: '::1:25': write an IPv6 address in brackets, as [::1]:25"),
        ("[[listener]]\naddress = '[::1]25'", "listener[0].address: '[::1]25' is not [address]:port"),
        ("[[listener]]\naddress = '127.0.0.1:70000'", "listener[0].address: '70000' is not a port"),
        (
            "[[listener]]\naddress = '[::1]:25'\n[[listener]]\naddress = '[0::1]:25'",
            "listener[1].address: [0::1]:25 is already the address of listener[0]",
        ),
        ("[sink]\naddress = '127.0.0.1:2525'", "sink.address: 127.0.0.1:2525 is already the address of listener[0]"),
        ("[sink]\naddress = '0.0.0.0:2526'", "sink.address: 0.0.0.0:2526: the sink swallows all mail, so it listens on loopback only"),
        ("[relay]\nnetworks = ['10.1.0.0/8']", "relay.networks[0]: 10.1.0.0/8 has bits set behind its prefix; write 10.0.0.0/8, or the one address without /"),
        ("[relay]\nnetworks = ['0.0.0.0/0']", "relay.networks[0]: 0.0.0.0/0 is everyone: an open relay"),
        ("[relay]\nnetworks = ['::/0']", "relay.networks[0]: ::/0 is everyone: an open relay"),
        ("[relay]\nnetworks = ['::/00']", "relay.networks[0]: ::/00 is everyone: an open relay"),
        ("[relay]\nnetworks = ['0.0.0.0/00']", "relay.networks[0]: 0.0.0.0/00 is everyone: an open relay"),
        ("[relay]\nnetworks = ['0.0.0.0/0.0.0.0']", "relay.networks[0]: 0.0.0.0/0.0.0.0 is everyone: an open relay"),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nproxy_from = ['::/000']",
            "listener[0].proxy_from[0]: ::/000 is everyone, and everyone could be anybody",
        ),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nxclient_from = ['0.0.0.0/0.0.0.0']",
            "listener[0].xclient_from[0]: 0.0.0.0/0.0.0.0 is everyone, and everyone could be anybody",
        ),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nproxy_from = ['127.0.0.1', '::/0']",
            "listener[0].proxy_from[1]: ::/0 is everyone, and everyone could be anybody",
        ),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nxclient_from = ['0.0.0.0/0']",
            "listener[0].xclient_from[0]: 0.0.0.0/0 is everyone, and everyone could be anybody",
        ),
        (
            "[[listener]]\naddress = '127.0.0.1:25'\nxclient_from = ['proxy.example']",
            (
                "listener[0].xclient_from[0]: 'proxy.example' is not a network, as 192.0.2.0/24 or 2001:db8::/32, nor an "
                "IP address"
            ),
        ),
        ("[relay]\ndomains = ['*']", 'relay.domains[0]: "*" would accept mail from anyone to anywhere: an open relay'),
        ("[relay]\ndomains = ['a b']", "relay.domains[0]: 'a b' is not a domain or \".subdomains\""),
        ("[relay]\ndomains = ['user@a.example']", "relay.domains[0]: 'user@a.example' is not a domain or \".subdomains\""),
        ("[[route]]\ndomains = ['[300.1.1.1]']", "route[0].domains[0]: '[300.1.1.1]' is not an address literal"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'MX'", "route[0].next_hop: 'MX' is neither \"mx\" nor smtp://host:port nor smtps://host:port"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'relay.example:25'", "route[0].next_hop: 'relay.example:25' is neither \"mx\" nor smtp://host:port nor smtps://host:port"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'smtp://h:0'", "route[0].next_hop: 'smtp://h:0' has no usable host and port"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'smtp://h/x'", "route[0].next_hop: 'smtp://h/x' has no usable host and port"),
        ("[[route]]\ndomains = ['a']\nnext_hop = []", "route[0].next_hop: names no host"),
        ("[[route]]\ndomains = ['a']\nnext_hop = ['smtp://h', 'mx']", 'route[0].next_hop: "mx" stands alone, not in a list'),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'smtp://127.0.0.1:2525'", "route[0].next_hop: smtp://127.0.0.1:2525 is our own listener: mail would go in a circle"),
        ("[[route]]\ndomains = ['a']\nnext_hop = 'smtps://h'\ntls = 'none'", 'route[0].tls: an smtps:// next hop cannot be reached with "none"'),
        ("[[route]]\ndomains = ['a']\nauth = 'f'", "route[0].auth: needs smarthosts as next_hop: the password would go to whoever the DNS names"),
        (
            "[[route]]\ndomains = ['a']\nnext_hop = 'smtp://h'\nauth = 'f'\ntls = 'none'",
            'route[0].auth: needs TLS, which tls = "none" forbids; auth_without_tls = true would let it be read by all',
        ),
        ("[[route]]\ndomains = ['a']\nkey = 'f'", "route[0].key: is of no use without a certificate"),
        ("[[listener]]\naddress = '0.0.0.0:25'\n[[route]]\ndomains = ['a']\nnext_hop = 'smtp://localhost'", "route[0].next_hop: smtp://localhost is our own listener: mail would go in a circle"),
        ("[[route]]\ndomains = ['*']\n[[route]]\ndomains = ['a.example']", "route[1].domains[0]: 'a.example' is never reached: route[0] takes it first"),
        ("[[route]]\ndomains = ['a.example']\n[[route]]\ndomains = ['b', 'A.example']", "route[1].domains[1]: 'A.example' is never reached: route[0] takes it first"),
        ("[dns]\nservers = ['ns.example']", "dns.servers[0]: 'ns.example' is not an IP address; names are not looked up here"),
        (
            "[dns]\nvalidating = true",
            "dns.validating: needs dns.servers: those of the system may be anybody's, and need not check DNSSEC",
        ),
        ("[dns]\nallow_private = ['127']", "dns.allow_private[0]: '127' is not a network, as 192.0.2.0/24 or 2001:db8::/32, nor an IP address"),
        ("[spool]\nmax_bytes = 67108864", "spool.low_water_bytes: must be below spool.max_bytes (67108864), or no mail is accepted"),
        (f"[server]\ncontrol = '/{'x' * 107}'", "server.control: the path of a Unix socket has at most 107 octets, this one has 108"),
    ],
)  # fmt: skip
def test_value_that_cannot_be_meant_is_refused(text: str, expected: str) -> None:
    if "hostname" not in text:
        text = f"server.hostname = 'mx.shop.example'\n{text}" if "[server]" not in text else text
    assert problems(text) == [expected]


def test_the_same_free_port_may_be_asked_for_twice() -> None:
    text = "[[listener]]\naddress = '127.0.0.1:0'\n[[listener]]\naddress = '127.0.0.1:0'"
    assert parse(text, FILE).listener == (Listener(address="127.0.0.1:0"), Listener(address="127.0.0.1:0"))


def test_ways_to_write_name_servers() -> None:
    servers = ("127.0.0.1:5353", "192.0.2.1", "[::1]", "[::1]:5353")
    assert parse(f"dns.servers = {list(servers)}", FILE).dns.servers == servers


# -- TLS

LISTENER = "[[listener]]\naddress = '127.0.0.1:25'\n"
FILES = "certificate = 'mx.pem'\nkey = 'mx.key'\n"
IMPLICIT = f"{LISTENER}tls = 'implicit'\n{FILES}"
MORE = "[[certificate]]\ncertificate = 'a.pem'\nkey = 'a.key'\n"


def test_names_of_certificate_files_come_out_absolute_and_names_canonical() -> None:
    config = parse(
        f"{IMPLICIT}client_certificates = 'request'\nclient_ca = '/etc/ca.pem'\n{MORE}"
        "names = ['*.BÜCHER.example', 'MX.Shop.Example.']",
        FILE,
    )
    assert config.listener == (
        Listener(
            address="127.0.0.1:25",
            tls="implicit",
            certificate="/etc/mail/mx.pem",
            key="/etc/mail/mx.key",
            client_certificates="request",
            client_ca="/etc/ca.pem",
        ),
    )
    assert config.certificate == (
        Certificate(
            names=("*.xn--bcher-kva.example", "mx.shop.example"),
            certificate="/etc/mail/a.pem",
            key="/etc/mail/a.key",
        ),
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LISTENER}tls = 'always'", ["listener[0].tls: 'always' is not one of 'none', 'starttls', 'implicit'"]),
        (f"{LISTENER}tls = 'starttls'", ['listener[0].certificate: is needed with tls = "starttls"', 'listener[0].key: is needed with tls = "starttls"']),
        (f"{LISTENER}{FILES}client_ca = 'x'", [f'listener[0].{key}: has no use with tls = "none"' for key in ("certificate", "key", "client_ca")]),
        (f"{LISTENER}client_certificates = 'require'", ['listener[0].client_certificates: cannot be had with tls = "none"']),
        (f"{LISTENER}require_tls = true", ['listener[0].require_tls: cannot be had with tls = "none"']),
        (f"{LISTENER}tls = 'starttls'\n{FILES}require_tls = true\nauth_without_tls = true", ["listener[0].require_tls: contradicts auth_without_tls: nothing is taken without TLS"]),
        (f"{IMPLICIT}client_certificates = 'require'", ['listener[0].client_ca: is needed with client_certificates = "require"']),
        (f"{IMPLICIT}client_ca = 'x'", ['listener[0].client_ca: has no use with client_certificates = "none"']),
        (f"{LISTENER}{MORE}names = ['a.example']", ["certificate: has no use: no [[listener]] has TLS"]),
        (f"{IMPLICIT}{MORE}", ["certificate[0]: the key 'names' is missing"]),
        (f"{IMPLICIT}{MORE}names = []", ["certificate[0].names: expected a list of length >= 1"]),
        (
            f"{IMPLICIT}{MORE}names = ['.a.example', '*', 'a b', '[192.0.2.1]', '*.a.example', 'a.example', 'A.example.']",
            [
                "certificate[0].names[0]: '.a.example' is not a name or \"*.name\"",
                "certificate[0].names[1]: '*' is not a name or \"*.name\"",
                "certificate[0].names[2]: 'a b' is not a domain or \".subdomains\"",
                "certificate[0].names[3]: '[192.0.2.1]' is not a name or \"*.name\"",
                "certificate[0].names[6]: 'A.example.' is already a name of certificate[0]",
            ],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_for_tls_is_refused(text: str, expected: list[str]) -> None:
    assert problems(f"server.hostname = 'mx.shop.example'\n{text}") == expected


# -- accounts

SUBMISSION = f"{LISTENER}role = 'submission'\n"
ACCOUNT = "[[account]]\nname = 'ann@shop.example'\n"


def test_accounts_and_their_file() -> None:
    config = parse(
        f"{SUBMISSION}auth_without_tls = true\n[accounts]\nfile = 'accounts.toml'\n{ACCOUNT}senders = ['@Shop.Example', '*']",
        FILE,
    )
    assert config.accounts.file == "/etc/mail/accounts.toml"
    assert config.account == (Account(name="ann@shop.example", senders=("@Shop.Example", "*")),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            SUBMISSION,
            [
                "listener[0].role: submission needs accounts: name a file in accounts.file, or write [[account]]",
                'listener[0].role: nobody could log in: submission needs tls = "starttls" or "implicit"',
            ],
        ),
        (f"{SUBMISSION}{ACCOUNT}", ['listener[0].role: nobody could log in: submission needs tls = "starttls" or "implicit"']),
        (f"{LISTENER}role = 'mx'", ["listener[0].role: 'mx' is not one of 'relay', 'submission'"]),
        ("[[account]]\nname = 'ann'", ["account[0].senders: is needed: the name 'ann' is not an address"]),
        (f"{ACCOUNT}{ACCOUNT}", ["account[1].name: 'ann@shop.example' is the name of account[0] already"]),
        (f"{ACCOUNT}password = 'secret'", ["account[0].password: is not an argon2id hash; `postroika account` makes one"]),
        (f"{ACCOUNT}recipients_per_day = -1", ["account[0].recipients_per_day: expected a whole number >= 0"]),
        (f"{ACCOUNT}sender = ['*']", ["account[0].sender: unknown key; did you mean 'senders'?"]),
        ("accounts.hash_threads = 0", ["accounts.hash_threads: expected a whole number >= 1"]),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_for_accounts_is_refused(text: str, expected: list[str]) -> None:
    assert problems(f"server.hostname = 'mx.shop.example'\n{text}") == expected


def test_hashes_are_not_shown() -> None:
    hashed = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"
    config = parse(f"{ACCOUNT}password = '{hashed}'", FILE)
    assert config.account == (Account(name="ann@shop.example", password=Secret(hashed)),)
    assert "argon2" not in f"{to_toml(config)}{config!r}"


# -- files


def test_file_that_is_not_toml() -> None:
    assert problems("[server\n") == ["not TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"]


def test_key_that_stands_twice() -> None:
    [problem] = problems("[server]\nworkers = 1\nworkers = 2")
    assert problem.startswith("not TOML: Cannot overwrite a value (at ")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.toml")
    assert str(caught.value) == f"{tmp_path}/none.toml: cannot read it: No such file or directory"


def test_directory_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot read it: Is a directory"


def test_file_that_is_not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(b"[server]\nhostname = '\xff'\n")
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: not UTF-8: invalid start byte at octet 21"


def test_first_default_file_that_exists_is_found(tmp_path: Path) -> None:
    here, there = tmp_path / "postroika.toml", tmp_path / "etc.toml"
    with pytest.raises(
        ConfigError, match=re.escape(f"no config file: tried {here} and {there}; name one with --config")
    ):
        find(among=(here, there))
    there.touch()
    assert find(among=(here, there)) == there
    here.touch()
    assert find(among=(here, there)) == here
    assert find("elsewhere.toml", (here, there)) == Path("elsewhere.toml")


# -- the text we write


def test_default_file_routes_test_mail_to_the_built_in_sink() -> None:
    text = default_text()
    expected = Config(
        server=Server(hostname="mx.shop.example"),
        route=(Route(domains=("test", ".test"), next_hop="smtp://127.0.0.1:2526"), Route(domains=("*",))),
        sink=Sink(address="127.0.0.1:2526"),
    )
    assert parse(text.replace('#hostname = ""', 'hostname = "mx.shop.example"'), FILE) == settled(expected)


def test_default_file_stays_the_same_with_all_keys_uncommented() -> None:
    text = default_text()
    tables = [re.sub(r"^#(?=[\w\[])", "", table, flags=re.MULTILINE) for table in text.split("\n\n")]
    uncommented = "\n\n".join(tables)
    needed = "\n\n".join(new for new, old in zip(tables, text.split("\n\n"), strict=True) if "\n#[" not in old)
    assert parse(needed, FILE) == parse(text, FILE)
    keys = {f"{section}.{field.name}" for section, s in SECTIONS.items() for field in msgspec.structs.fields(s)}
    section, written = "", set()
    for line in uncommented.splitlines():
        if header := re.fullmatch(r"(?:# )?\[+(\w+)\]+", line):  # behind "# " stands a table that there may be
            section = header[1]
        elif key := re.match(r"(?:# )?(\w+) = ", line):
            written.add(f"{section}.{key[1]}")
    assert written == keys


def test_default_file_fits_a_terminal() -> None:
    assert max(map(len, default_text().splitlines())) <= 120


def test_effective_config_reads_back_equal() -> None:
    text = default_text().replace('#events = "var/log/events.jsonl"', r'events = "a\"b\\c\u007f\u0000é"')
    config = parse(
        text.replace("#jitter = 0.1", "jitter = 0.123").replace("#domains = []", 'domains = ["é.test"]'), FILE
    )
    assert config.log.events == '/etc/mail/a"b\\c\x7f\0é'
    assert parse(to_toml(config), FILE) == config


def test_every_key_says_its_meaning() -> None:
    for struct in SECTIONS.values():
        for field in msgspec.structs.fields(struct):
            notes = [note for note in field.type.__metadata__ if isinstance(note, str)]
            assert len(notes) == 1, field.name
            assert notes[0].endswith("."), field.name
            assert "|" not in notes[0], field.name  # would break the table in docs/config.md


def test_reference_page_is_up_to_date() -> None:
    page = Path(__file__).parents[2] / "docs" / "config.md"
    assert page.read_text() == config_page.page(), "run `make docs`"
