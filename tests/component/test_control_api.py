"""The control API over a real Unix socket: the client on one side, a spool and scripted workers on the other."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import stat
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import trio
import trio.testing

from postroika import __version__, metrics
from postroika.control import api, unix_server, wire
from postroika.control.client import Client
from postroika.control.records import CancelRequest, Changed, Filter, FlushRequest, Status, WorkerStatus
from postroika.control.unix_server import bind
from postroika.errors import ControlError, NoServerError, NotQueuedError, RefusedError
from postroika.mail.ids import IdSource, id_text
from tests.component.queued_mail import BODY, QueuedMail, config_for, ids, texts

T = TypeVar("T")


class Workers:
    """Two workers that do as they are told; `down` holds those that do not answer."""

    worker_pids = (11, 12)

    def __init__(self) -> None:
        self.asked: list[wire.Request] = []
        self.down: set[int] = set()
        self.results: list[dict[str, Any]] = [{}, {}]
        self.hang: tuple[type[wire.Request], ...] = ()
        self.change_ends_after = 0  # so many questions for figures
        self._figures_asked = trio.Condition()

    async def ask_all(self, request: wire.Request) -> list[wire.Answer]:
        await trio.lowlevel.checkpoint()
        if isinstance(request, self.hang):
            await trio.sleep_forever()
        async with self._figures_asked:
            if isinstance(request, wire.Stats):
                self._figures_asked.notify_all()
            else:
                while self.asked.count(wire.Stats()) < self.change_ends_after:
                    await self._figures_asked.wait()
        self.asked.append(request)
        return [
            wire.Answer(1, error=f"worker {index} is not running")
            if index in self.down
            else wire.Answer(1, self.results[index])
            for index in range(2)
        ]


class Server:
    """A running API. `ask(lambda client: …)` does that in a thread."""

    def __init__(self, path: Path, workers: Workers) -> None:
        self.path = path
        self.workers = workers

    async def ask(self, question: Callable[[Client], T], timeout_s: float = 10) -> T:
        def asked() -> T:
            with Client(str(self.path), timeout_s=timeout_s) as client:
                return question(client)

        return await trio.to_thread.run_sync(asked)

    async def raw(self, method: str, target: str, body: bytes | None = None) -> tuple[int, Any]:
        """Status and decoded body of any request."""

        def asked() -> tuple[int, Any]:
            connection = http.client.HTTPConnection("localhost", timeout=10)
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(str(self.path))
            with contextlib.closing(connection):
                connection.request(method, target, body)
                response = connection.getresponse()
                return response.status, msgspec.json.decode(response.read() or b"null")

        return await trio.to_thread.run_sync(asked)


@contextlib.asynccontextmanager
async def serving(spool: Path) -> AsyncIterator[Server]:
    config = config_for(spool)
    workers = Workers()
    async with trio.open_nursery() as nursery:
        await nursery.start(api.serve, config, workers)
        yield Server(Path(config.server.control), workers)
        nursery.cancel_scope.cancel()


@pytest.fixture
def mail(tmp_path: Path) -> QueuedMail:
    return QueuedMail(tmp_path / "spool", shards=2)


async def test_socket_is_for_the_owner_alone_and_goes_with_the_server(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        assert stat.filemode(server.path.stat().st_mode) == "srw-------"
    assert not server.path.exists()
    with pytest.raises(NoServerError, match=f"^no server answers at {server.path}$"):
        await server.ask(Client.status)


async def test_socket_that_a_killed_server_has_left_is_replaced(mail: QueuedMail) -> None:
    mail.close()
    path = Path(config_for(mail.spool).server.control)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NoServerError):
        await Server(path, Workers()).ask(Client.status)
    async with serving(mail.spool) as server:
        assert (await server.ask(Client.status)).ready


async def test_live_server_is_not_pushed_aside(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        with pytest.raises(ControlError, match=f"^cannot make the control socket {server.path}: a server answers"):
            bind(server.path)
        assert (await server.ask(Client.status)).ready


async def test_server_removes_no_socket_but_its_own(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.path.unlink()
        successor = bind(server.path)[0]
    assert server.path.is_socket()
    successor.close()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("mine")
    with pytest.raises(ControlError, match=f"^cannot make the control socket {path}: there is a file of that name$"):
        bind(path)
    assert path.read_text() == "mine"


async def test_status(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.results[0] = {"gauges": {"lanes": 3}, "counters": {}}
        server.workers.down.add(1)
        status = await server.ask(Client.status)
    assert 0 <= status.uptime_s < 10
    assert status == Status(
        version=__version__,
        hostname="mx.us.test",
        pid=os.getpid(),
        uptime_s=status.uptime_s,
        ready=False,
        workers=[
            WorkerStatus(worker=0, pid=11, error="", gauges={"lanes": 3}),
            WorkerStatus(worker=1, pid=12, error="worker 1 is not running", gauges={}),
        ],
    )


async def test_queue_is_told_as_the_spool_has_it(mail: QueuedMail) -> None:
    number = mail.message(["a@shop.test"], sender="", tenant="acme & co", age_s=1e9)
    mail.message(["b@shop.test"], shard=1)
    mail.doubt(number, "a@shop.test")
    mail.close()
    async with serving(mail.spool) as server:
        client = server.ask
        both = await client(lambda c: c.page(Filter()))
        first = await client(lambda c: c.page(Filter(), limit=1))
        rest = await client(lambda c: c.page(Filter(), after=number))
        filtered = await client(
            lambda c: c.page(Filter(tenant="acme & co", sender="<>", in_doubt=True, older_than_s=1.5))
        )
        assert texts(number) == ids(first) == ids(filtered) == [ids(both)[0]]
        assert (first.next, ids(rest)) == (id_text(number), ids(both)[1:])
        assert (await client(lambda c: c.detail(number))).batches[0].recipients[0].address == "a@shop.test"
        assert [doubt.id for doubt in (await client(Client.doubts)).batches] == texts(number)
        server.workers.results = [{"gauges": {"lanes": 1}}, {"gauges": {"lanes": 2}}]
        stats = await client(lambda c: c.stats(top=1))
        assert (stats.batches, stats.messages, stats.destinations[0].name) == (2, 2, "shop.test")
        assert [worker.gauges for worker in stats.workers] == [{"lanes": 1}, {"lanes": 2}]


@pytest.mark.parametrize("size", [len(BODY), 3 * 1024 * 1024 + 5])
async def test_body_comes_byte_for_byte(mail: QueuedMail, size: int) -> None:
    body = (BODY + os.urandom(1000) * (size // 1000 + 1))[:size]
    number = mail.message(["a@shop.test"], body=body)
    mail.close()

    def read(client: Client) -> tuple[int, bytes]:
        length, pieces = client.body(number)
        return length, b"".join(pieces)

    async with serving(mail.spool) as server:
        assert await server.ask(read) == (size, body)


async def test_flush_reaches_every_worker(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.results = [{"batches": 2}, {"batches": 5}]
        source = IdSource(0)
        numbers = [source.next_id() for _ in range(2001)]
        some = FlushRequest(messages=[id_text(n) for n in numbers], destinations=["Shop.Test", "bücher.test"])
        assert await server.ask(lambda c: c.flush(some)) == Changed(count=21, errors=[])
        assert await server.ask(lambda c: c.flush(FlushRequest())) == Changed(count=7, errors=[])
        assert server.workers.asked == [
            wire.Flush(messages=numbers[:2000]),
            wire.Flush(messages=numbers[2000:]),
            wire.Flush(destinations=["shop.test", "xn--bcher-kva.test"]),
            wire.Flush(),
        ]
        assert all(len(msgspec.json.encode(asked)) < wire.MAX_PACKET_BYTES for asked in server.workers.asked)


async def test_cancel_reaches_every_worker_and_tells_of_those_that_could_not(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.results = [{"recipients": 4}, {}]
        server.workers.down.add(1)
        number = IdSource(0).next_id()
        by_id = CancelRequest(messages=[id_text(number).upper()])
        by_filter = CancelRequest(campaign="may", sender="<>")
        failed = ["worker 1 is not running"]
        assert await server.ask(lambda c: c.cancel(by_id)) == Changed(count=4, errors=failed)
        assert await server.ask(lambda c: c.cancel(by_filter)) == Changed(count=4, errors=failed)
        assert server.workers.asked == [
            wire.Cancel(messages=[number]),
            wire.Cancel(campaign="may", sender="<>"),
        ]
        server.workers.down.add(0)
        with pytest.raises(ControlError, match=r"^worker 0 is not running; worker 1 is not running$"):
            await server.ask(lambda c: c.cancel(by_id))


async def test_change_is_waited_for_as_long_as_the_server_answers_others(
    mail: QueuedMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail.close()
    monkeypatch.setattr(unix_server, "_KEEP_ALIVE_S", 0.05)  # which is for connections that wait for nothing
    async with serving(mail.spool) as server:
        server.workers.results = [{"recipients": 10_000_000}, {}]
        server.workers.change_ends_after = 3
        everything = CancelRequest(sender="@news.test")
        assert await server.ask(lambda c: c.cancel(everything), timeout_s=0.1) == Changed(count=10_000_000, errors=[])
        cancel = wire.Cancel(sender="@news.test")
        assert server.workers.asked[:4] == [wire.Stats(), wire.Stats(), wire.Stats(), cancel]


async def test_change_goes_on_when_its_client_goes_away(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.change_ends_after = 1
        numbers = list(range(2001))
        body = msgspec.json.encode(FlushRequest(messages=[id_text(number) for number in numbers]))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server.path))
            client.sendall(b"POST /v1/queue/flush HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await trio.testing.wait_all_tasks_blocked(0.05)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert (await server.ask(Client.status)).ready
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.workers.asked == [
            wire.Stats(),
            wire.Flush(messages=numbers[:2000]),
            wire.Flush(messages=numbers[2000:]),
        ]


async def test_change_is_given_up_when_the_server_answers_nobody(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.hang = (wire.Flush, wire.Stats)
        with pytest.raises(ControlError, match=f"^the server at {server.path} does not answer in time$"):
            await server.ask(lambda c: c.flush(FlushRequest()), timeout_s=0.1)


async def test_connection_that_was_idle_for_long_is_opened_anew(
    mail: QueuedMail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is when the operator thinks twice before he confirms what is to be cancelled."""
    mail.close()
    monkeypatch.setattr(unix_server, "_KEEP_ALIVE_S", 0.05)
    async with serving(mail.spool) as server:

        def ask_twice(client: Client) -> bool:
            client.status()
            sock = client._connection.sock
            assert sock is not None
            assert sock.recv(1) == b""  # the server has closed it
            return client.status().ready

        assert await server.ask(ask_twice)


async def test_reopening_logs_reaches_every_worker(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        assert await server.ask(Client.reopen_logs) == Changed(count=0, errors=[])
        assert server.workers.asked == [wire.Reopen()]


async def test_metrics_join_the_workers_and_the_spool(mail: QueuedMail) -> None:
    mail.message(["a@shop.test"])
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.results = [
            {"counters": {"commits": 2.0, "delivered": 1}, "gauges": {"outbox_lag": 0.5}},
            {"counters": {"commits": 3.5}, "gauges": {"outbox_lag": 0.25, "lanes": 4}},
        ]
        lines = (await server.ask(Client.metrics)).splitlines()
    figures = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    expected = {
        "postroika_commits_total": "5.5",
        'postroika_outcomes_total{outcome="delivered"}': "1",
        "postroika_outbox_lag_seconds": "0.5",
        "postroika_queue_batches": "1",
        "postroika_workers": "2",
    }
    assert {name: figures[name] for name in expected} == expected
    assert len(figures) == len(metrics.METRICS)


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("GET", "/v1/nothing", None, (404, "Not Found")),
        ("POST", "/v1/queue", None, (405, "Method Not Allowed")),
        ("GET", "/v1/queue/flush", None, (400, "'flush' is not a message id (13 letters and digits)")),
        ("GET", "/v1/queue/zzz", None, (400, "'zzz' is not a message id (13 letters and digits)")),
        (
            "GET",
            "/v1/queue/0000000000000",
            None,
            (404, "0000000000000 is not in the queue; the events log tells what became of it"),
        ),
        (
            "GET",
            "/v1/queue/0000000000000/body",
            None,
            (404, "0000000000000 is not in the queue; the events log tells what became of it"),
        ),
        ("GET", "/v1/queue?limit=0", None, (400, "parameters: Expected `int` >= 1 - at `$.limit`")),
        ("GET", "/v1/queue?reciepient=a", None, (400, "parameters: Object contains unknown field `reciepient`")),
        ("GET", "/v1/queue/doubts?after=x", None, (400, "'x' is not where a page of doubts ended")),
        ("POST", "/v1/queue/flush", b"{", (400, "body: Input data was truncated")),
        ("POST", "/v1/queue/flush", b'{"all":1}', (400, "body: Object contains unknown field `all`")),
        ("POST", "/v1/queue/flush", b'{"messages":["x"]}', (400, "'x' is not a message id (13 letters and digits)")),
        ("POST", "/v1/queue/cancel", None, (400, "name either messages or filters to cancel")),
        (
            "POST",
            "/v1/queue/cancel",
            b'{"messages":["0000000000000"],"sender":"a@b"}',
            (400, "name either messages or filters to cancel"),
        ),
        ("POST", "/v1/queue/flush", b" " * 1_048_577, (413, "the request has more than 1048576 octets")),
    ],
)
async def test_what_makes_no_sense_is_refused_and_reaches_no_worker(
    mail: QueuedMail, method: str, target: str, body: bytes | None, expected: tuple[int, str]
) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        status, answer = await server.raw(method, target, body)
        assert (status, answer) == (expected[0], {"error": expected[1]})
        assert server.workers.asked == []


@pytest.mark.parametrize(
    "target",
    [
        "/v1/queue?after=fzzzzzzzzzzzz",
        f"/v1/queue?destination={'x' * 600}",
        f"/v1/queue?destination={'%C3%BC' * 300}",
        "/v1/queue?destination=%00&sender=%00&recipient=%FF",
        "/v1/queue?sender=@",
    ],
)
async def test_what_can_match_nothing_finds_nothing(mail: QueuedMail, target: str) -> None:
    mail.message(["a@shop.test"])
    mail.close()
    async with serving(mail.spool) as server:
        assert await server.raw("GET", target) == (200, {"messages": [], "next": ""})


async def test_refusals_come_to_the_client_as_errors(mail: QueuedMail) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        with pytest.raises(NotQueuedError, match=r"^0000000000000 is not in the queue;"):
            await server.ask(lambda c: c.detail(0))
        with pytest.raises(RefusedError, match=r"^name either messages or filters to cancel$"):
            await server.ask(lambda c: c.cancel(CancelRequest()))


async def test_spool_that_is_not_there_is_a_failure_of_the_server(tmp_path: Path) -> None:
    async with serving(tmp_path / "spool") as server:
        with pytest.raises(ControlError, match=f"^no spool at {tmp_path / 'spool'}: No such file or directory$"):
            await server.ask(lambda c: c.page(Filter()))


@pytest.mark.parametrize(
    "rudeness",
    [
        b"",
        b"GET",
        b"\x00\xff\r\n\r\n",
        b"GET /v1/queue HTTP/1.1\r\n",
        b"GET /v1/queue HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/queue/flush HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"GET " + b"x" * 100_000,
    ],
)
async def test_client_that_goes_away_at_any_moment_harms_nobody(mail: QueuedMail, rudeness: bytes) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        for linger in (False, True):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(server.path))
                client.sendall(rudeness)
                if linger:
                    client.shutdown(socket.SHUT_WR)
                    await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await server.ask(Client.status)).ready


async def test_client_that_does_not_read_does_not_hold_up_the_end(mail: QueuedMail) -> None:
    number = mail.message(["a@shop.test"], body=BODY + b"x" * 4_000_000)
    mail.close()
    with socket.socket(socket.AF_UNIX) as client, trio.fail_after(5):
        async with serving(mail.spool) as server:
            client.connect(str(server.path))
            client.sendall(f"GET /v1/queue/{id_text(number)}/body HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert await trio.to_thread.run_sync(partial(client.recv, 9)) == b"HTTP/1.1 "
            await trio.testing.wait_all_tasks_blocked(0.05)
        rest = b"".join(iter(partial(client.recv, 1 << 20), b""))
    assert not server.path.exists()
    assert len(rest) < 4_000_000  # it was cut off, not waited for


async def test_bug_is_told_and_logged_and_harms_no_other(mail: QueuedMail, caplog: pytest.LogCaptureFixture) -> None:
    mail.close()
    async with serving(mail.spool) as server:
        server.workers.results[0] = {"gauges": 7}
        assert await server.raw("GET", "/v1/metrics") == (
            500,
            {"error": "a bug: TypeError; the server's log has more"},
        )
        server.workers.results[0] = {}
        assert (await server.ask(Client.status)).ready
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("postroika.control.unix_server", "ERROR")
    ]
    assert "TypeError" in caplog.text
