"""Certificates for the peers of system tests, in files."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

import trustme


class Authority:
    """A certificate authority of a test's own.

    Args:
        directory: where its files go; daemons that run as other users have to get there.
    """

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        self._directory = directory
        self.file = directory / "ca.pem"
        self.file.write_bytes(self._ca.cert_pem.bytes())

    def issue(self, *names: str, expired: bool = False) -> Path:
        """A file with a key and its certificate."""
        not_after = datetime(2020, 1, 2, tzinfo=UTC) if expired else None
        leaf = self._ca.issue_cert(*names, not_after=not_after)
        file = self._directory / f"{names[0]}{'-expired' if expired else ''}.pem"
        file.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        file.chmod(0o600)
        return file


def owned_by(user: str, file: Path) -> Path:
    """The same file, for a daemon of this user."""
    shutil.chown(file, user)
    return file
