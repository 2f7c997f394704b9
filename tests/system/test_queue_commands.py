"""`postroika queue` on a running server, and the same on the spool that it leaves."""

from __future__ import annotations

from pathlib import Path

from postroika.cli import ExitCode
from tests.system.command import command
from tests.system.process import free_port
from tests.system.server import Postroika
from tests.system.sink_peer import StartOurSink

_MESSAGE = b"Subject: hello\r\n\r\nhello\r\n"


def to(port: int) -> str:
    """A config that sends all mail to one port, and tries again only when told."""
    return f'[[route]]\ndomains = ["*"]\nnext_hop = "smtp://127.0.0.1:{port}"\n'


def accepted(server: Postroika, *recipients: str, sender: str = "me@news.test") -> str:
    """Hand a message over; returns its id."""
    with server.dialogue() as client:
        return client.message(sender, list(recipients), _MESSAGE).rpartition(" ")[2]


def listed(server: Postroika, *filters: str) -> list[tuple[str, list[str]]]:
    """(id, recipients) of what is listed."""
    messages = command(server, "queue", "list", "--json", *filters).json["messages"]
    return [(message["id"], message["first_recipients"]) for message in messages]


def test_what_waits_is_listed_and_explained_and_goes_out_when_flushed(tmp_path: Path, sink: StartOurSink) -> None:
    port = free_port()
    with Postroika(tmp_path, to(port)) as server:
        message = accepted(server, "a@shop.test", "b@other.test")
        server.wait_for_events(2, "deferred")
        assert listed(server) == [(message, ["a@shop.test", "b@other.test"])]
        shown = command(server, "queue", "show", message)
        refused = f"451 4.4.1 127.0.0.1 [127.0.0.1]:{port} refused the connection"
        assert (shown.code, shown.err) == (ExitCode.OK, "")
        assert shown.out.count(refused) == 4  # of each destination: why it is down, and what the batch was told
        assert shown.out.count("The destination cannot be reached since ") == 2
        assert command(server, "queue", "show", message, "--headers").out.splitlines()[-1] == "Subject: hello"
        figures = command(server, "queue", "stats", "--json").json
        assert sorted(down["name"] for down in figures["down"]) == ["other.test", "shop.test"]
        assert [worker["error"] for worker in figures["workers"]] == ["", ""]

        peer = sink(port=port)
        assert command(server, "queue", "flush", "--destination", "Shop.test") == (
            ExitCode.OK,
            "1 batch moved up to be tried now.\n",
            "",
        )
        server.wait_for_events(1, "delivered")
        assert listed(server) == [(message, ["b@other.test"])]
        assert command(server, "queue", "flush", message).out == "1 batch moved up to be tried now.\n"
        server.wait_for_events(2, "delivered")
        server.wait_until_drained()
        assert command(server, "queue", "list") == (ExitCode.OK, "The queue is empty.\n", "")
        gone = f"postroika: {message} is not in the queue"
        assert command(server, "queue", "flush", message) == (ExitCode.FAILED, "", f"{gone}\n")
        assert command(server, "queue", "show", message) == (
            ExitCode.FAILED,
            "",
            f"{gone}; the events log tells what became of it\n",
        )
        assert peer.end()["recipients"] == 2


def test_cancelled_mail_is_gone_and_all_other_mail_is_not(tmp_path: Path, sink: StartOurSink) -> None:
    port = free_port()
    with Postroika(tmp_path, to(port)) as server:
        first = accepted(server, "a@shop.test", "b@other.test", sender="news@acme.test")
        second = accepted(server, "c@shop.test")
        third = accepted(server, "d@shop.test", sender="")
        server.wait_for_events(4, "deferred")
        filters = ("--destination", "other.test", "--sender", "@acme.test")
        asked = command(server, "queue", "cancel", *filters)
        assert (asked.code, asked.out) == (ExitCode.USAGE, "")
        assert "This takes back 1 message to 1 recipient, the oldest" in asked.err
        assert command(server, "queue", "cancel", *filters, "--yes") == (
            ExitCode.OK,
            "1 recipient will get nothing.\n",
            "",
        )
        assert command(server, "queue", "cancel", third, "--json").json == {"count": 1, "errors": []}
        assert command(server, "queue", "cancel", third) == (
            ExitCode.FAILED,
            "",
            f"postroika: {third} is not in the queue, or all of it is being delivered right now\n",
        )
        assert listed(server) == [(first, ["a@shop.test"]), (second, ["c@shop.test"])]
        sink(port=port)
        assert command(server, "queue", "flush").code == ExitCode.OK
        server.wait_until_drained()
        final = {(e["type"], e["recipient"]) for e in server.events_of("delivered", "cancelled", "bounced", "expired")}
        assert final == {
            ("delivered", "a@shop.test"),
            ("cancelled", "b@other.test"),
            ("delivered", "c@shop.test"),
            ("cancelled", "d@shop.test"),
        }


def test_a_stopped_server_answers_the_same_from_its_spool(tmp_path: Path) -> None:
    with Postroika(tmp_path, to(free_port())) as server:
        message = accepted(server, "a@shop.test")
        accepted(server, "b@other.test")
        server.wait_for_events(2, "deferred")
        live = [
            command(server, "queue", *arguments).out
            for arguments in (("list", "--json"), ("show", message, "--json"), ("show", message, "--body"))
        ]
        assert server.stop() == 0
        notice = f"postroika: no server answers at {tmp_path}/control.sock; reading the spool {tmp_path}/spool\n"
        stopped = [
            command(server, "queue", *arguments)
            for arguments in (("list", "--json"), ("show", message, "--json"), ("show", message, "--body"))
        ]
        assert stopped == [(ExitCode.OK, text, notice) for text in live]
        assert command(server, "queue", "flush") == (
            ExitCode.UNAVAILABLE,
            "",
            f"postroika: no server answers at {tmp_path}/control.sock; flush needs a running server\n",
        )
        # Whoever only looks leaves nothing behind that could keep the server from its spool.
        server.start()
        assert listed(server)[0] == (message, ["a@shop.test"])


def test_figures_name_the_worker_processes(tmp_path: Path) -> None:
    with Postroika(tmp_path, to(free_port()), workers=3) as server:
        workers = command(server, "queue", "stats", "--json").json["workers"]
        assert sorted(worker["pid"] for worker in workers) == sorted(server.worker_pids())
        assert [(worker["worker"], worker["error"]) for worker in workers] == [(0, ""), (1, ""), (2, "")]
