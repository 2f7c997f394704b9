"""Dovecot as what it is to a Postfix: the one who knows passwords. Nothing else of it is started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.process import Process, program, wait_until

_CONFIG = """
protocols =
base_dir = {directory}/run
state_dir = {directory}/state
log_path = {directory}/dovecot.log
ssl = no
auth_mechanisms = plain login
auth_verbose = yes
disable_plaintext_auth = no
passdb {{
  driver = passwd-file
  args = scheme=plain {directory}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home=/nonexistent
}}
service auth {{
  unix_listener {directory}/auth {{
    mode = 0666
  }}
}}
"""


@contextmanager
def run_dovecot(directory: Path, users: dict[str, str]) -> Iterator[Path]:
    """Its authentication service, with these users; gives the socket. `directory` is open to every user."""
    binary = program("dovecot", "dovecot-core")
    (directory / "users").write_text("".join(f"{user}:{{PLAIN}}{password}\n" for user, password in users.items()))
    config = directory / "dovecot.conf"
    config.write_text(_CONFIG.format(directory=directory))
    socket = directory / "auth"
    with Process([binary, "-F", "-c", config], log=directory / "start.log") as process:

        def ready() -> bool:
            assert process.returncode is None, process.output()
            return socket.is_socket()

        wait_until(ready, "Dovecot's socket", 20)
        yield socket
