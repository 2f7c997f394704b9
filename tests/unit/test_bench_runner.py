"""The runner: turns are interleaved, each with its own sink, and a message that is lost voids the scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from postroika.bench import bars, runner, scenario
from postroika.bench.load_settings import LoadResult, LoadSettings
from postroika.bench.plan import Plan
from postroika.bench.results import FLOOR, Figures
from postroika.bench.scenario import Bar, Case, Setup, Size
from postroika.bench.scenarios import relay_signed
from postroika.bench.turns import Turns
from postroika.errors import PostroikaError
from tests.unit.bench_fakes import FakeDriver, FakePeer, World, make_bench

_SIZE = Size(rounds=2, messages=1000, turn_s=0, warm_up=10, estimate_s=20)
# Half a millisecond a message, and two.
_SPEEDS = {"postroika": 0.0005, "postfix": 0.002}


def turns(**changes: Any) -> Turns:
    plain = Turns(
        name="relay",
        about="a load",
        unit="messages",
        load=LoadSettings(target="", sessions=10),
        cases=(
            Case(label="Ours", setup=Setup(peer="postroika")),
            Case(label="Postfix", setup=Setup(peer="postfix")),
        ),
        drivers=("own", "postfix"),
        quick=_SIZE,
        full=_SIZE,
        bars=(Bar("÷ Postfix", "at least", 3, 5, "×", bars.speed("Ours", "Postfix", "own")),),
    )
    return msgspec.structs.replace(plain, **changes)


def loads(world: World) -> list[str]:
    return [line.removeprefix("load ") for line in world.log if line.startswith("load")]


def test_turns_are_interleaved_by_round_and_driver(tmp_path: Path) -> None:
    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS)
    result = turns().run(bench)
    assert [(turn.round, turn.driver, turn.contender) for turn in result.turns] == [
        (number, driver, contender)
        for number in (1, 2)
        for driver in ("own", "postfix")
        for contender in ("Ours", "Postfix", FLOOR)
    ]
    warm_up = ["postroika 10", "postfix 10"]
    assert loads(world) == warm_up + ["postroika 1000", "postfix 1000", "sink 1000"] * 4
    assert world.log[:2] == ["start postroika", "start postfix"]
    assert world.log[-2:] == ["stop postfix", "stop postroika"]
    assert list(tmp_path.iterdir()) == []


def test_a_turn_tells_what_it_took(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, _SPEEDS)
    result = turns().run(bench)
    first = result.turns[0]
    assert (first.elapsed_s, first.accepted_s, first.cpu_s) == pytest.approx((0.5, 0.25, 1.0))
    assert (first.messages, first.recipients, first.bytes) == (1000, 1000, 4_096_000)
    assert (first.load_cpu_s, first.sink_cpu_s) == (0.25, 0.5)
    assert [count for _, count in first.timeline] == [1000]
    assert first.accept_latency_ms is not None
    assert first.accept_latency_ms.max == 0.5
    figures = Figures(result.turns, "messages")
    assert figures.ratio("Ours", "Postfix", "own", figures.rate) == pytest.approx(4)
    assert figures.ratio("Ours", FLOOR, "postfix", figures.rate) == pytest.approx(0.2)
    assert [(one.measured, one.verdict) for one in result.bars] == [(pytest.approx(4), "met")]
    assert (result.void, result.size) == ("", "quick")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"double": 2}, "of 10 acknowledged: 2 doubled"),
        ({"damage": 3}, "of 10 acknowledged: 3 damaged"),
        ({"refuse": 4}, "4 messages and 0 recipients were refused, 0 messages not sent: 4 × 451 4.3.0 later"),
    ],
)
def test_mail_that_goes_wrong_voids_the_scenario(tmp_path: Path, wrong: dict[str, int], told: str) -> None:
    bench, _ = make_bench(World(**wrong), tmp_path, _SPEEDS)
    result = turns().run(bench)
    assert result.void == f"Ours, round 0, driver own: {told}"
    assert [one.measured for one in result.bars] == [None]


def test_mail_that_is_lost_voids_the_scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroika.bench.bench._STANDSTILL_S", 0.0)
    bench, _ = make_bench(World(lose=1), tmp_path, _SPEEDS)
    assert turns().run(bench).void == ("Ours, round 0, driver own: of 10 acknowledged 9 came, and no more within 0 s")


def test_what_was_accepted_must_be_queued(tmp_path: Path) -> None:
    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS)
    suspended = turns(
        until="accepted",
        floor=False,
        cases=(Case(label="Ours", setup=Setup(peer="postroika", suspended=True)),),
        others=False,
    )
    result = suspended.run(bench)
    assert [turn.elapsed_s for turn in result.turns] == pytest.approx([0.25] * 4)
    assert result.void == ""
    world.lose = 1
    assert suspended.run(bench).void == ("Ours, round 0, driver own: 10 messages were acknowledged, 9 are queued")


def test_the_tools_of_postfix_tell_doubles_by_their_number(tmp_path: Path) -> None:
    bench, _ = make_bench(World(double=1), tmp_path, _SPEEDS)
    assert turns(drivers=("postfix",)).run(bench).void == (
        "Ours, round 0, driver postfix: of 10 acknowledged: 1 more than were sent"
    )


def test_a_driver_can_have_other_loads_and_the_sink_of_another(tmp_path: Path) -> None:
    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS)
    load = LoadSettings(target="", sessions=10, recipients=3, domains=2)
    result = turns(load=load, by_driver={"postfix": {"domains": 1}}, sinks={"postfix": "own"}).run(bench)
    assert result.void == ""
    assert {(driver, settings.domains) for driver, settings in world.loads[2:]} == {("own", 2), ("postfix", 1)}
    assert {turn.recipients for turn in result.turns} == {3000}


def test_equal_setups_share_a_server(tmp_path: Path) -> None:
    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS)
    setup = Setup(peer="postroika", extra={"limits": {"max_recipients": 5}})
    cases = (
        Case(label="few", setup=setup),
        Case(label="many", setup=setup, load={"sessions": 500}, drivers=("own",)),
        Case(label="one worker", setup=Setup(peer="postroika", workers=1)),
    )
    result = turns(cases=cases, others=False).run(bench)
    assert [line for line in world.log if line.startswith("start")] == ["start postroika"] * 2
    assert {(turn.contender, turn.driver) for turn in result.turns if turn.contender == "many"} == {("many", "own")}
    assert [server.options.extra for server in world.servers.values()] == [{"limits": {"max_recipients": 5}}, {}]


@pytest.mark.parametrize(
    ("headline", "asked_for", "labels"),
    [
        (False, (), ["Ours", "Postfix"]),
        (True, (), ["Ours", "Postfix", "Exim"]),
        (False, ("postroika", "exim"), ["Ours", "Postfix", "Exim"]),
    ],
)
def test_further_servers_take_part_in_headlines_or_when_asked_for(
    tmp_path: Path, headline: bool, asked_for: tuple[str, ...], labels: list[str]
) -> None:
    bench, _ = make_bench(World(), tmp_path, {**_SPEEDS, "exim": 0.01}, asked_for=asked_for)
    result = turns(headline=headline).run(bench)
    assert [one.label for one in result.contenders] == labels
    # A quick run has them in its first round only.
    assert {turn.round for turn in result.turns if turn.contender == "Exim"} <= {1}


def test_a_server_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, {"postroika": 0.0005})
    result = turns().run(bench)
    assert [one.label for one in result.contenders] == ["Ours"]
    assert (result.void, [one.verdict for one in result.bars]) == ("", ["not measured"])


def test_a_void_scenario_does_not_keep_the_next_from_running(tmp_path: Path) -> None:
    class Broken(Turns, frozen=True):
        def run(self, bench: object) -> Any:
            raise PostroikaError("the server does not start")

    world = World()
    bench, told = make_bench(world, tmp_path, _SPEEDS)
    broken = msgspec.structs.replace(turns(), name="broken")
    broken = Broken(**{name: getattr(broken, name) for name in broken.__struct_fields__})
    report = runner.run([broken, turns()], bench, tmp_path, {"Exim": "not here"}, {"command": "postroika bench run"})
    assert [(one.name, one.void) for one in report.scenarios] == [
        ("broken", "the server does not start"),
        ("relay", ""),
    ]
    assert report.void == ("broken",)
    assert report.machine["peers"] == {"Ours": "1.2", "Postfix": "1.2"}
    assert (report.missing, report.settings) == ({"Exim": "not here"}, {"command": "postroika bench run"})
    assert "broken is VOID: the server does not start" in told.getvalue()


def test_a_scenario_without_its_driver_is_left_out(tmp_path: Path) -> None:
    world = World()
    bench, told = make_bench(world, tmp_path, _SPEEDS, driver_names=["postfix"])
    report = runner.run([turns(drivers=("own",)), turns()], bench, tmp_path, {}, {})
    assert {turn.driver for one in report.scenarios for turn in one.turns} == {"postfix"}
    assert "relay is left out: it needs --driver own" in told.getvalue()


def test_a_report_is_written_in_three_forms_and_read_again(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, _SPEEDS)
    report = runner.run([turns()], bench, tmp_path, {}, {})
    files = runner.write(report, tmp_path / "made" / "results")
    assert sorted(file.suffix for file in files.values()) == [".html", ".json", ".md"]
    assert len({file.stem for file in files.values()}) == 1
    assert runner.read(files["json"]) == report
    files["json"].write_text("{}")
    with pytest.raises(PostroikaError, match="is no report of the harness"):
        runner.read(files["json"])
    with pytest.raises(PostroikaError, match="cannot read"):
        runner.read(tmp_path / "none.json")
    with pytest.raises(PostroikaError, match="cannot write"):
        runner.write(report, files["json"])


def test_a_slow_server_gets_what_it_can_move_in_a_turn() -> None:
    plan = Plan(Size(rounds=1, messages=10_000, turn_s=2, warm_up=100, estimate_s=1))
    plan.warmed_up("slow", "own", 100, 1.0)
    plan.warmed_up("fast", "own", 100, 0.01)
    assert plan.messages("unknown", "own", 10) == 10_000
    assert plan.messages("fast", "own", 10) == 10_000
    assert plan.messages("slow", "own", 10) == 300  # a warm-up tells too little
    assert plan.messages("slow", "own", 1000) == 1000
    plan.moved("slow", "own", 300, 2.0)
    assert plan.messages("slow", "own", 10) == 300
    plan.moved("slow", "own", 300, 1.5)
    plan.moved("slow", "own", 300, 3.0)
    assert plan.messages("slow", "own", 10) == 400


def test_without_a_time_for_a_turn_all_get_the_same() -> None:
    plan = Plan(Size(rounds=1, messages=10_000, turn_s=0, warm_up=100, estimate_s=1))
    plan.moved("slow", "own", 100, 10.0)
    assert plan.messages("slow", "own", 10) == 10_000


def test_every_scenario_is_there_and_says_what_it_is(tmp_path: Path) -> None:
    every = scenario.loads(())
    assert [one.name for one in every] == scenario.names()
    assert set(scenario.names()) >= {
        *("relay", "relay-100k", "relay-tls", "relay-signed", "accept", "fanout", "list", "slow"),
        *("backlog", "idle", "big", "mixed", "sessions", "cores"),
    }
    bench, _ = make_bench(World(), tmp_path, _SPEEDS)
    for one in every:
        assert 0 < one.estimate_s(bench) <= 60
        assert one.about
        assert set(one.drivers) <= {"own", "postfix"}


@pytest.mark.parametrize(("missing", "peers"), [(None, ["postroika", "postfix"]), ("it is not here", ["postroika"])])
def test_signing_is_measured_without_the_filter_that_postfix_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str | None, peers: list[str]
) -> None:
    monkeypatch.setattr(relay_signed, "filter_missing", lambda: missing)
    monkeypatch.setattr(relay_signed, "_signatures_per_s", lambda _seconds: 50.0)
    bench, _ = make_bench(World(), tmp_path, _SPEEDS)
    result = relay_signed.SCENARIO.run(bench)
    assert (result.void, [one.peer for one in result.contenders]) == ("", peers)
    share, ratio, _ = result.bars
    assert share.measured is not None
    assert (ratio.measured is None) is (missing is not None)
    assert (missing in result.remarks) is (missing is not None)


@pytest.mark.parametrize(
    ("said", "rate"), [("rsa 2048 bits 0.000814s 0.000024s   2456.4  80000.0\n", 2456.4), ("nothing of use", None)]
)
def test_what_openssl_says(monkeypatch: pytest.MonkeyPatch, said: str, rate: float | None) -> None:
    monkeypatch.setattr(relay_signed, "run", lambda _command: said)
    if rate is None:
        with pytest.raises(scenario.Void, match="openssl speed does not say how much it signs"):
            relay_signed._signatures_per_s(1)
    else:
        assert relay_signed._signatures_per_s(1) == rate


def test_an_unknown_scenario_is_told() -> None:
    with pytest.raises(PostroikaError, match=r"there is no scenario 'relais'; there are relay, relay-100k, "):
        scenario.loads(["relay", "relais"])


def test_a_load_keeps_to_what_a_server_offers(tmp_path: Path) -> None:
    world = World()
    bench, _ = make_bench(world, tmp_path, {**_SPEEDS, "old": 0.01})
    needs: dict[str, Any] = {"pipelining": False}
    bench.peers["old"].load_needs = needs  # type: ignore[misc]
    result = turns(headline=True, drivers=("own",)).run(bench)
    assert {settings.pipelining for _, settings in world.loads} == {True, False}
    assert [one.load.count("--no-pipelining") for one in result.contenders] == [0, 0, 1]


def test_so_does_each_load_of_the_mixed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postroika.bench.scenarios.mixed._AHEAD_S", 0.0)
    world = World()
    bench, _ = make_bench(world, tmp_path, {"postroika": 0.0005, "old": 0.01}, asked_for=["postroika", "old"])
    needs: dict[str, Any] = {"pipelining": False}
    bench.peers["old"].load_needs = needs  # type: ignore[misc]
    result = scenario.load("mixed").run(bench)
    assert result.void == ""
    # The trickle alone; the bulk, and the trickle beside it.
    names = {server.port: server.name for server in world.servers.values()}
    told = [(names[int(one.target.rpartition(":")[2])], one.rate_per_s, one.pipelining) for _, one in world.loads]
    assert sorted(told) == sorted(
        (name, rate_per_s, name != "old") for name in ("postroika", "old") for rate_per_s in (50.0, 0.0, 50.0)
    )


def test_a_further_server_that_fails_under_bulk_is_left_out_of_the_mixed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeDriver):
        def load(self, settings: LoadSettings) -> LoadResult:
            server = self.world.servers[int(settings.target.rpartition(":")[2])]
            if server.name == "old" and not settings.rate_per_s:
                raise PostroikaError("451 later")
            return super().load(settings)

    monkeypatch.setattr("postroika.bench.scenarios.mixed._AHEAD_S", 0.0)
    world = World()
    drivers = {"own": Failing(world, "own", marks=True)}
    speeds = {"postroika": 0.0005, "old": 0.01}
    bench, told = make_bench(world, tmp_path, speeds, quick=False, drivers=drivers, asked_for=["old", "postroika"])
    result = scenario.load("mixed").run(bench)
    why = "Old is left out: Old, under bulk, round 1: 451 later"
    assert (result.void, result.remarks[0], told.getvalue().count(why)) == ("", why, 1)
    assert {turn.contender for turn in result.turns} == {"Postroika, alone", "Postroika, under bulk"}
    assert "kill old" in world.log


def test_an_interruption_ends_it_with_what_there_is(tmp_path: Path) -> None:
    class Interrupted(Turns, frozen=True):
        def run(self, bench: object) -> Any:
            raise KeyboardInterrupt

    bench, told = make_bench(World(), tmp_path, _SPEEDS)
    plain = turns()
    interrupted = Interrupted(**{name: getattr(plain, name) for name in plain.__struct_fields__})
    report = runner.run([plain, interrupted, plain], bench, tmp_path, {}, {"command": "run"})
    assert [one.name for one in report.scenarios] == ["relay"]
    assert told.getvalue().splitlines()[-1] == f"Interrupted {report.settings['interrupted']}"
    assert report.settings == {
        "command": "run",
        "interrupted": "during relay, before it had measured anything; not run: relay",
    }


def test_a_driver_that_fails_voids_the_scenario_and_keeps_its_turns(tmp_path: Path) -> None:
    class Failing(FakeDriver):
        def load(self, settings: LoadSettings) -> LoadResult:
            if len(self.world.loads) == 2 + 3 + 1:
                raise PostroikaError("smtp-source failed")
            return super().load(settings)

    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS, drivers={"own": Failing(world, "own", marks=True)})
    result = turns().run(bench)
    assert result.void == "Postfix, round 2, driver own: smtp-source failed"
    assert len(result.turns) == 4


def test_an_interruption_keeps_the_turns_until_then(tmp_path: Path) -> None:
    class Stopped(FakeDriver):
        def load(self, settings: LoadSettings) -> LoadResult:
            if len(self.world.loads) == 2 + 3 + 1:
                raise KeyboardInterrupt
            return super().load(settings)

    world = World()
    bench, _ = make_bench(world, tmp_path, _SPEEDS, drivers={"own": Stopped(world, "own", marks=True)})
    report = runner.run([turns(), turns(name="next")], bench, tmp_path, {}, {})
    (result,) = report.scenarios
    assert (len(result.turns), result.void, result.interrupted) == (4, "", "in round 2 of 2, after 4 turns")
    assert report.settings == {"interrupted": "during relay, in round 2 of 2, after 4 turns; not run: next"}
    assert world.log[-2:] == ["stop postfix", "stop postroika"]


def test_other_interpreters_take_part_in_headlines_in_each_round(tmp_path: Path) -> None:
    world = World()
    newest = FakePeer(world, "newest", 0.00025)
    bench, _ = make_bench(world, tmp_path, _SPEEDS, interpreters={"3.13": newest})
    many = Case(label="Ours, 500 sessions", setup=Setup(peer="postroika"), load={"sessions": 500})
    plain = turns(headline=True, drivers=("own",))
    result = msgspec.structs.replace(plain, cases=(*plain.cases, many)).run(bench)
    assert [one.label for one in result.contenders] == ["Ours", "Postfix", "Ours, 500 sessions", "Ours, 3.13"]
    assert [(one.peer, one.interpreter) for one in result.contenders][-1] == ("postroika", "3.13")
    assert [line for line in world.log if line.startswith("start")] == [
        "start postroika",
        "start postfix",
        "start newest",
    ]
    figures = Figures(result.turns, "messages")
    assert figures.ratio("Ours, 3.13", "Ours", "own", figures.rate) == pytest.approx(2)
    assert len(figures.turns("Ours, 3.13", "own")) == 2
    report = runner.run([plain], bench, tmp_path, {}, {})
    assert report.machine["peers"] == {"Ours": "1.2", "Postfix": "1.2"}
    # Elsewhere they would cost time and tell nothing new.
    assert len(turns().run(bench).contenders) == 2


def test_an_estimate_follows_from_cases_rounds_and_drivers(tmp_path: Path) -> None:
    plain = turns()

    def estimate_s(speeds: dict[str, float], scenario: Turns = plain, **scope: Any) -> float:
        bench, _ = make_bench(World(), tmp_path, speeds, **scope)
        return scenario.estimate_s(bench)

    assert estimate_s(_SPEEDS) == 20.0
    assert estimate_s(_SPEEDS, rounds=4) == 40.0
    assert estimate_s({"postroika": 0.001}) == 10.0
    timed = turns(quick=Size(rounds=3, messages=1000, turn_s=1, warm_up=10), full=_SIZE, headline=True)
    two = estimate_s(_SPEEDS, timed)
    assert estimate_s(_SPEEDS, timed, driver_names=["own"]) < two
    assert estimate_s(_SPEEDS, timed, rounds=6) > 1.5 * two
    # A further server has one round, a further interpreter has all.
    three = estimate_s({**_SPEEDS, "exim": 0.01}, timed)
    other = estimate_s(_SPEEDS, timed, interpreters={"3.13": FakePeer(World(), "newest", 0.001)})
    assert two < three < other < 1.5 * two


def test_what_bystanders_used_stands_with_each_scenario(tmp_path: Path) -> None:
    bench, _ = make_bench(World(), tmp_path, _SPEEDS)
    result = runner.run_one(turns(), bench)
    shares = [turn.bystanders for turn in result.turns]
    assert None not in shares
    assert result.bystanders == max(share for share in shares if share is not None)


def test_a_report_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    runner.check_directory(tmp_path / "made")
    assert list((tmp_path / "made").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(PostroikaError, match=r"^no report can be written to .*/file: "):
        runner.check_directory(tmp_path / "file")


@pytest.mark.parametrize(("load", "number"), [(1, 0), (3, 2)])
def test_a_further_server_that_fails_is_left_out_alone(tmp_path: Path, load: int, number: int) -> None:
    class Failing(FakeDriver):
        loads = 0

        def load(self, settings: LoadSettings) -> LoadResult:
            server = self.world.servers.get(int(settings.target.rpartition(":")[2]))
            self.loads += server is not None and server.name == "exim"
            if server is not None and server.name == "exim" and self.loads == load:
                raise PostroikaError("451 later")
            return super().load(settings)

    world = World()
    drivers = {"own": Failing(world, "own", marks=True)}
    bench, told = make_bench(world, tmp_path, {**_SPEEDS, "exim": 0.01}, quick=False, drivers=drivers)
    result = turns(headline=True).run(bench)
    why = f"Exim is left out: Exim, round {number}, driver own: 451 later"
    assert (result.void, why in result.remarks, why in told.getvalue()) == ("", True, True)
    assert [(turn.round, turn.contender) for turn in result.turns] == [
        (number, contender) for number in (1, 2) for contender in ("Ours", "Postfix", FLOOR)
    ]
    assert "kill exim" in world.log
