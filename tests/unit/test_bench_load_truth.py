"""The counts of the load generator against what a server really took, with servers that refuse, break off and cut
everything anywhere.

The server here is a plain model that follows the commands one by one, and fails a test when a command is out of turn.
"""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postroika.bench.messages import parse_mark, render
from postroika.kernels import bench_load as kernel
from postroika.kernels.bench_load import Conversation, Plan
from tests.unit.load_plan import make_plan, template


class BrokenOff(Exception):
    """The server closes the connection."""


class Server:
    """One server; `accept` begins a connection.

    Args:
        mood: what decides about each reply.
        trouble: the share of replies that are not what the client hopes for.
    """

    def __init__(self, mood: Random, trouble: float, *, pipelining: bool, bdat: bool) -> None:
        self.mood = mood
        self.trouble = trouble
        self.pipelining = pipelining
        self.bdat = bdat
        self.acknowledged: Counter[int] = Counter()
        self.untold: Counter[int] = Counter()
        self.recipients = 0
        self.accept()

    def accept(self) -> None:
        self.input = b""
        self.state = "start"
        self.rcpts = 0
        self.chunk_bytes: int | None = None
        self.ended = False

    def _trouble(self) -> bool:
        return self.mood.random() < self.trouble

    def _say(self, wish: bytes) -> bytes:
        """The reply that is hoped for, or another one."""
        if self._trouble():
            kind = self.mood.choice(["4", "5", "421", "drop"])
            if kind == "drop":
                raise BrokenOff
            if kind == "421":
                self.ended = True
                return b"421 4.3.2 closing\r\n"
            return kind.encode() + b"50-not now <x@y>\r\n" + kind.encode() + b"50 at all\r\n"
        return wish

    def take(self, more: bytes) -> bytes:
        """The replies to what came; ends with BrokenOff, whose argument are the replies before it."""
        self.input += more
        replies = b""
        try:
            while not self.ended and (reply := self._step()) is not None:
                replies += reply
        except BrokenOff:
            raise BrokenOff(replies) from None
        return replies

    def _step(self) -> bytes | None:
        if self.state == "content":
            return self._take_content()
        if self.chunk_bytes is not None:
            return self._take_chunk()
        line, found, rest = self.input.partition(b"\r\n")
        if not found:
            return None
        self.input = rest
        if not self.pipelining:
            assert not rest or line.startswith(b"BDAT"), "a command before the reply to the last one"
        return self._take_command(line)

    def _take_command(self, line: bytes) -> bytes | None:
        verb = line.split(b" ")[0]
        if verb == b"EHLO":
            assert self.state == "start"
            assert not self.input
            reply = self._say(b"250-me\r\n250-PIPELINING\r\n250 CHUNKING\r\n")
            self.state = "ready" if reply.startswith(b"250") else "start"
            return reply
        if verb == b"QUIT":
            assert not self.input
            self.ended = True
            return b"221 bye\r\n"
        if verb == b"RSET":
            self.state, self.rcpts = "ready", 0
            return self._say(b"250 ok\r\n")
        if verb == b"MAIL":
            assert self.state == "ready", "MAIL within a transaction"
            reply = self._say(b"250 ok\r\n")
            self.state = "mail" if reply.startswith(b"250") else "ready"
            self.rcpts = 0
            return reply
        if verb == b"RCPT":
            if self.state == "ready":
                assert self.pipelining
                return b"503 no MAIL\r\n"
            reply = self._say(b"250 ok\r\n")
            self.rcpts += reply.startswith(b"250")
            return reply
        if verb == b"DATA":
            assert not self.input, "what follows DATA has to wait"
            if self.state == "ready":
                return b"503 no MAIL\r\n"
            reply = self._say(b"354 go\r\n")
            if reply.startswith(b"354") and (self.rcpts or self.mood.random() < 0.5):
                self.state = "content"
            elif reply.startswith(b"354"):
                return b"554 no recipients\r\n"
            return reply
        assert verb == b"BDAT"
        size, last = line.split(b" ")[1:]
        assert last == b"LAST"
        self.chunk_bytes = int(size)
        return b""

    def _take_content(self) -> bytes | None:
        if self.input.startswith(b".\r\n"):
            content, self.input = b"", self.input[3:]
        else:
            content, found, rest = self.input.partition(b"\r\n.\r\n")
            if not found:
                return None
            content, self.input = b"\r\n".join(line.removeprefix(b".") for line in content.split(b"\r\n")), rest
            content += b"\r\n"
        assert bool(content) == bool(self.rcpts), "an empty message is for no recipients"
        self.state = "ready"
        return self._end(content)

    def _take_chunk(self) -> bytes | None:
        assert self.chunk_bytes is not None
        if len(self.input) < self.chunk_bytes:
            return None
        content, self.input = self.input[: self.chunk_bytes], self.input[self.chunk_bytes :]
        self.chunk_bytes = None
        if self.state != "mail" or not self.rcpts:
            return b"554 no transaction\r\n"
        reply = self._end(content)
        if reply.startswith(b"250"):
            self.state = "ready"
        return reply

    def _end(self, content: bytes) -> bytes:
        if not content:
            return self._say(b"250 ok\r\n")
        mark = parse_mark(content)
        assert mark is not None
        assert content == render(template(stuffed=False), mark.number, mark.sent_ns)
        try:
            reply = self._say(b"250 ok\r\n")
        except BrokenOff:
            self.untold[mark.number] += 1
            raise
        if reply.startswith(b"250"):
            self.acknowledged[mark.number] += 1
            self.recipients += self.rcpts
        return reply


class Line:
    """A connection between a conversation and a server, which cuts all that goes over it."""

    def __init__(self, plan: Plan, server: Server, cuts: Random) -> None:
        self.plan = plan
        self.server = server
        self.cuts = cuts
        self.changes = 0
        self.over = False
        self.conversation = Conversation(plan, self._changed)
        self._open()

    def _changed(self, changes: int) -> None:
        self.changes |= changes

    def _open(self) -> None:
        self.server.accept()
        self.changes = 0
        self.replies = b"220 hi\r\n"
        self.closing = False
        self.conversation.open(-1)

    def step(self) -> None:
        """A few bytes one way or the other; a new connection after the end of one."""
        if self.changes & (kernel.DONE | kernel.LOST):
            if self.plan.exhausted:
                self.over = True
            else:
                self._open()
        elif self.replies and self.cuts.random() < 0.7:
            size = self.cuts.choice([1, 3, 10, 1000])
            piece, self.replies = self.replies[:size], self.replies[size:]
            self.conversation.feed(piece)
        elif self.closing:
            if not self.replies:
                self.conversation.feed(b"")
        else:
            piece = self.conversation.pending(self.cuts.choice([1, 5, 50, 5000]))
            self.conversation.sent(len(piece))
            try:
                self.replies += self.server.take(piece)
            except BrokenOff as broken:
                self.replies += broken.args[0]
                self.closing = True
            self.closing = self.closing or self.server.ended


@pytest.mark.parametrize("bdat", [False, True], ids=["data", "bdat"])
@pytest.mark.parametrize(("pipelining", "across"), [(False, False), (True, False), (True, True)])
@given(
    seed=st.integers(0, 1 << 32),
    trouble=st.sampled_from([0.0, 0.02, 0.1, 0.4]),
    messages=st.integers(1, 8),
    recipients=st.integers(1, 3),
    sessions=st.integers(1, 3),
    per_connection=st.integers(0, 2),
)
def test_counts_are_what_the_server_took(
    *,
    pipelining: bool,
    across: bool,
    bdat: bool,
    seed: int,
    trouble: float,
    messages: int,
    recipients: int,
    sessions: int,
    per_connection: int,
) -> None:
    plan = make_plan(
        pipelining=pipelining,
        across=across,
        bdat=bdat,
        messages=messages,
        recipients=recipients,
        messages_per_connection=per_connection,
    )
    chance = Random(seed)
    servers = [Server(chance, trouble, pipelining=pipelining, bdat=bdat) for _ in range(sessions)]
    lines = [Line(plan, server, chance) for server in servers]
    while not all(line.over for line in lines):
        chance.choice([line for line in lines if not line.over]).step()
    acknowledged = sum((server.acknowledged for server in servers), Counter[int]())
    untold = sum((server.untold for server in servers), Counter[int]())
    taken = acknowledged + untold
    assert plan.acknowledged == acknowledged.total()
    assert plan.recipients == sum(server.recipients for server in servers)
    assert plan.acknowledged + plan.failed == messages
    assert plan.in_flight == 0
    assert untold.total() <= plan.in_doubt <= plan.failed
    assert all(count == 1 for count in taken.values())
    assert set(taken) <= set(range(messages))
    if not trouble:
        assert (plan.acknowledged, plan.errors) == (messages, {})


@given(
    st.lists(st.sampled_from([b"2", b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"421 x\n", b"250-", b"\r\n", b"\0"]))
)
def test_no_babble_makes_an_acknowledgement_or_more_output_than_a_turn_needs(babble: list[bytes]) -> None:
    plan = make_plan(messages=0, duration_ns=10**12, pipelining=True, across=True)
    conversation = Conversation(plan, lambda changes: None)
    conversation.open(-1)
    for piece in [b"220 hi\r\n250 PIPELINING\r\n", *babble]:
        conversation.feed(piece)
        assert len(conversation.pending()) < 2000
    assert plan.acknowledged == 0
