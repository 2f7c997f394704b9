"""A real nginx as a mail proxy: it lets clients log in, asks a server of the test who they are, and says XCLIENT."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.system.process import Process, free_port, program

_CONFIG = """
load_module {module};
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log {place}/error.log info;
events {{ worker_connections 64; }}
mail {{
    server_name proxy.test;
    auth_http 127.0.0.1:{desk}/;
    server {{
        listen 127.0.0.1:{port};
        protocol smtp;
        smtp_auth plain login none;
        xclient on;
    }}
}}
"""


def _module() -> str:
    """The part of nginx that speaks of mail; a package of its own in Debian."""
    path = Path("/usr/lib/nginx/modules/ngx_mail_module.so")
    return str(path) if path.exists() else program("ngx_mail_module.so", "libnginx-mod-mail")


StartNginx = Callable[[str, int], int]


@pytest.fixture
def nginx() -> Iterator[StartNginx]:
    """`nginx(host, port)` starts one for the server there, and gives the port that it listens on. Everybody may log in
    as whoever they say."""
    with ExitStack() as stack:

        def start(host: str, port: int) -> int:
            class Desk(http.server.BaseHTTPRequestHandler):
                def do_GET(self) -> None:
                    self.send_response(200)
                    for name, value in (("Auth-Status", "OK"), ("Auth-Server", host), ("Auth-Port", str(port))):
                        self.send_header(name, value)
                    self.end_headers()

                def log_message(self, *_: object) -> None:
                    pass

            desk = stack.enter_context(http.server.HTTPServer(("127.0.0.1", 0), Desk))
            thread = threading.Thread(target=desk.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(desk.shutdown)
            place = Path(mkdtemp(prefix="postroika-nginx-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            own = free_port()
            config = place / "nginx.conf"
            text = _CONFIG.format(module=_module(), place=place, desk=desk.server_port, port=own)
            config.write_text(text)
            command = [program("nginx", "nginx"), "-e", f"{place}/error.log", "-p", str(place), "-c", str(config)]
            process = stack.enter_context(Process(command, log=place / "start.log"))
            process.wait_accepting("127.0.0.1", own)
            return own

        yield start
