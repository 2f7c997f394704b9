"""What mail is signed with where a scenario wants it signed: an RSA key of 2048 bits, and OpenDKIM for those who need a
filter for it.

All sign the same fields of the header, and guard them against more of their name, in the same canonical form.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from postroika.bench.peers.ports import free_port
from postroika.bench.peers.program import run
from postroika.errors import PostroikaError

DOMAIN, SELECTOR = "load.test", "s1"
FIELDS = ("From", "Reply-To", "Subject", "Date", "To", "Cc", "Message-ID", "MIME-Version", "Content-Type",
          "List-Unsubscribe", "List-Unsubscribe-Post")  # fmt: skip
_SEARCH = "/usr/sbin:/usr/bin:/sbin:/bin"
_FILTER = """\
Mode s
Syslog no
Socket inet:{port}@127.0.0.1
Background no
UMask 077
RequireSafeKeys no
Canonicalization relaxed/relaxed
SignatureAlgorithm rsa-sha256
KeyTable {directory}/keys
SigningTable refile:{directory}/signing
SignHeaders {fields}
OversignHeaders {fields}
"""


def make_key(directory: Path) -> Path:
    """A new key.

    Raises:
        PostroikaError: there is no openssl.
    """
    file = directory / "dkim.pem"
    run(["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", file])
    file.chmod(0o600)
    return file


def filter_missing() -> str | None:
    """Why OpenDKIM cannot run here, in one line with the mend; None: it can."""
    return None if shutil.which("opendkim", path=_SEARCH) else "OpenDKIM is not here: sudo apt-get install opendkim"


class OpenDkim:
    """A filter (milter) that signs all mail.

    Args:
        directory: for its files.

    Attributes:
        port: where it listens, on loopback.
        command: starts it; it stays in the foreground.

    Raises:
        PostroikaError: it is not here.
    """

    def __init__(self, directory: Path) -> None:
        if (missing := filter_missing()) is not None:
            raise PostroikaError(missing)
        directory.mkdir(exist_ok=True)
        self.port = free_port()
        key = make_key(directory)
        (directory / "keys").write_text(f"key {DOMAIN}:{SELECTOR}:{key}\n")
        (directory / "signing").write_text("* key\n")
        file = directory / "opendkim.conf"
        file.write_text(_FILTER.format(port=self.port, directory=directory, fields=",".join(FIELDS)))
        self.command = [shutil.which("opendkim", path=_SEARCH) or "opendkim", "-f", "-x", str(file)]
