"""The configuration: one TOML file, decoded to frozen structs. All defaults live here.

Promise: what `load` returns can be used. An unknown or impossible key is a ConfigError that names the key, the file and
the nearest valid key. Units are in the key names: `_s` seconds, `_bytes` octets.

`sections` has the structs, with the meaning, default and bounds of every key (`sections_inbound` and
`sections_outbound` those of the mail that comes and goes); `addresses` reads host:port and domain names; `check`, with
`accounts`, `policy`, `routes` and `signing`, finds what is wrong with a file, `certificates` with the files that it
names for TLS; `file` finds, reads and settles it; `text` writes it. `secret` has the type of what nobody is to see,
`named_files` knows the files that the config names, as of keys, and reads them.
"""

from __future__ import annotations

from postroika.config.accounts import account_problems, exposed_hashes
from postroika.config.addresses import begins_with_tls, canonical_domain, parse_next_hop, split_host_port
from postroika.config.file import DEFAULT_PATHS, check_files, find, load, parse
from postroika.config.routes import goes_by_mx
from postroika.config.secret import Secret, decode_whole, encode_shown, encode_whole
from postroika.config.sections import SECTIONS, Config, Log, Process, Server, Sink, Spool
from postroika.config.sections_base import MiB
from postroika.config.sections_inbound import Account, Accounts, Blocklist, Certificate, Limits, Listener, Policy, Relay
from postroika.config.sections_outbound import Delivery, Dkim, Dns, Retry, Route, Signing, Sts, Tlsrpt
from postroika.config.text import default_text, to_toml

__all__ = [
    "DEFAULT_PATHS",
    "SECTIONS",
    "Account",
    "Accounts",
    "Blocklist",
    "Certificate",
    "Config",
    "Delivery",
    "Dkim",
    "Dns",
    "Limits",
    "Listener",
    "Log",
    "MiB",
    "Policy",
    "Process",
    "Relay",
    "Retry",
    "Route",
    "Secret",
    "Server",
    "Signing",
    "Sink",
    "Spool",
    "Sts",
    "Tlsrpt",
    "account_problems",
    "begins_with_tls",
    "canonical_domain",
    "check_files",
    "decode_whole",
    "default_text",
    "encode_shown",
    "encode_whole",
    "exposed_hashes",
    "find",
    "goes_by_mx",
    "load",
    "parse",
    "parse_next_hop",
    "split_host_port",
    "to_toml",
]
