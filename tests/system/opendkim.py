"""OpenDKIM as a verifier: a message goes through its filter in test mode, keys come from a file."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.system.process import program

_CONFIG = """\
Mode v
Syslog no
TestPublicKeys {keys}
AlwaysAddARHeader yes
"""
_FOUND = re.compile(r"dkim=(\w+)(?: \(([^)]*)\))?(?:(?!dkim=).)*?header\.d=([\w.-]+)", re.DOTALL)


class OpenDkim:
    """The filter with some keys.

    Args:
        directory: for its files.
        records: the key records by name.
    """

    def __init__(self, directory: Path, records: Mapping[str, bytes]) -> None:
        self._program = program("opendkim", "opendkim")
        self._directory = directory
        keys = directory / "opendkim-keys"
        keys.write_bytes(b"".join(b"%s %s\n" % (name.encode(), record) for name, record in records.items()))
        self._config = directory / "opendkim.conf"
        self._config.write_text(_CONFIG.format(keys=keys))

    def results(self, message: bytes) -> list[tuple[str, str]]:
        """(result, domain) of each signature, as its Authentication-Results field has them."""
        file = self._directory / "opendkim-message"
        file.write_bytes(message)
        command = [self._program, "-x", str(self._config), "-t", str(file), "-vv"]
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        said = (done.stdout + done.stderr).decode(errors="replace")
        found = [(result, domain) for result, _, domain in _FOUND.findall(said)]
        assert found, f"{command} said with exit code {done.returncode}:\n{said}"
        return found
