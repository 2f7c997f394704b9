"""Makes the fixtures of real peers known to all system tests."""

from tests.system.dns_server import dns_server
from tests.system.haproxy_peer import haproxy
from tests.system.nginx_peer import nginx
from tests.system.nodemailer_peer import nodemailer
from tests.system.peers import smtp_sink, smtp_source, swaks
from tests.system.postfix_peer import postfix
from tests.system.sink_peer import sink

__all__ = ["dns_server", "haproxy", "nginx", "nodemailer", "postfix", "sink", "smtp_sink", "smtp_source", "swaks"]
