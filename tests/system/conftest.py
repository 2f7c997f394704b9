"""Makes the fixtures of real peers known to all system tests."""

from tests.system.peers import smtp_sink, smtp_source, swaks
from tests.system.postfix_peer import postfix

__all__ = ["postfix", "smtp_sink", "smtp_source", "swaks"]
