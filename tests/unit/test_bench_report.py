"""The report: the same figures in the terminal, in Markdown and on the page; nothing can break out of its place."""

import io
from html.parser import HTMLParser
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console

from postroika.bench import charts, results, tables
from postroika.bench.report_html import page
from postroika.bench.report_markdown import markdown
from postroika.bench.report_terminal import print_report
from postroika.bench.results import FLOOR, BarResult, Contender, Figure, Figures, Latency, Report, ScenarioResult
from tests.unit.bench_fakes import turn

_NASTY = '</pre><script src="http://evil.test/x.js">`|*_[x](y)'


def scenario(void: str = "") -> ScenarioResult:
    return ScenarioResult(
        name="relay",
        about="4 KB <end to end>",
        size="quick",
        unit="messages",
        took_s=12.0,
        contenders=(
            Contender(label="Postroika", peer="postroika", version="0.1", settings="[server]", load="50 sessions"),
            Contender(label="Postfix", peer="postfix", version=_NASTY, settings=_NASTY, load="50 sessions"),
        ),
        turns=(
            turn("Postroika", 1, 0.5, 0.1),
            turn("Postfix", 1, 2.0, 0.8),
            turn(FLOOR, 1, 0.25, None),
            turn("Postroika", 2, 1.0, 0.2),
            turn("Postfix", 2, 2.0, 1.0),
            turn(FLOOR, 2, 0.25, None),
            turn("Postroika", 3, 0.5, 0.1),
            turn("Postfix", 3, 5.0, 0.9),
            turn(FLOOR, 3, 0.1, None),
        ),
        bystanders=0.3,
        figures=(Figure(what="RSS of an idle session", value=12.5, unit="KB"),),
        bars=(
            BarResult(what="÷ Postfix", sense="at least", bar=3, stretch=5, unit="×", measured=4.0),
            BarResult(what="÷ the floor", sense="at least", bar=0.5, stretch=None, unit="", measured=0.25),
            BarResult(what="CPU ÷ Postfix", sense="at most", bar=0.5, stretch=0.125, unit="", measured=0.125),
            BarResult(what="500 sessions ÷ 50", sense="at least", bar=0.9, stretch=1, unit="", measured=None),
        ),
        remarks=("2 of 3 rounds were <short>",),
        void=void,
    )


def report(void: str = "") -> Report:
    return Report(
        at="2026-11-22T01:00:00+00:00",
        took_s=13.0,
        machine={"cpu": "a|b", "cores": 2, "sync_ms": 0.327, "nothing": None},
        settings={"size": "quick"},
        missing={"Exim": "not installed; mend it with: apt-get install exim4"},
        scenarios=(scenario(void),),
    )


def test_a_report_comes_back_from_its_file() -> None:
    assert results.decode(results.encode(report())) == report()


def test_a_file_that_is_no_report_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        results.decode(b'{"kernels": {}}')


def test_a_ratio_is_the_median_of_the_ratios_of_each_round() -> None:
    figures = Figures(scenario().turns, "messages")
    assert figures.ratio("Postroika", "Postfix", "own", figures.rate) == 4.0  # of 4, 2, 10
    assert figures.ratio("Postroika", FLOOR, "own", figures.rate) == 0.25  # of 0.5, 0.25, 0.2
    assert figures.ratio("Postroika", "Postfix", "own", figures.cpu_ms) == pytest.approx(0.125)  # of 0.125, 0.2, 0.111
    assert figures.ratio("Postroika", "Exim", "own", figures.rate) is None
    assert figures.ratio("Postroika", "Postfix", "postfix", figures.rate) is None


def test_a_round_that_one_side_sat_out_has_no_ratio() -> None:
    figures = Figures([turn("a", 1, 1.0, 0.1), turn("b", 1, 2.0, 0.1), turn("a", 2, 100.0, 0.1)], "messages")
    assert figures.ratio("a", "b", "own", figures.rate) == 2.0


@pytest.mark.parametrize(("unit", "rate", "cpu_ms"), [("messages", 200, 1), ("recipients", 400, 0.5), ("MB", 8, 25)])
def test_speed_and_cpu_count_the_unit_of_the_scenario(unit: results.Unit, rate: float, cpu_ms: float) -> None:
    one = turn("a", 1, 0.5, 0.1)
    assert (Figures([one], unit).rate(one), Figures([one], unit).cpu_ms(one)) == (rate, cpu_ms)


def test_the_table_of_a_scenario() -> None:
    table = tables.scenario_table(scenario())
    assert table.columns == (
        "server",
        "messages/s",
        "÷ Postfix",
        "of the floor",
        "CPU ms per message",
        "CPU ÷ Postfix",
        "accepted p50 / p99 ms",
        "delivered p50 / p99 ms",
        "private / resident MB",
        "messages × rounds",
    )
    assert table.rows == (
        ("Postroika", "200", "4.00 ×", "25%", "1.00", "0.12 ×", *["2.00 / 8.00"] * 2, "20 / 50", "100 × 3"),
        ("Postfix", "50.0", "", "12%", "9.00", "", *["2.00 / 8.00"] * 2, "20 / 50", "100 × 3"),
        (FLOOR, "400", "", "", "", "", *["2.00 / 8.00"] * 2, "", "100 × 3"),
    )


def test_drivers_have_a_column_where_there_are_several() -> None:
    both = [turn("Postroika", 1, 1.0, 0.1), turn("Postroika", 1, 2.0, 0.1, "postfix")]
    table = tables.scenario_table(msgspec.structs.replace(scenario(), turns=tuple(both)))
    assert [row[:3] for row in table.rows] == [
        ("Postroika", "our load", "100"),
        ("Postroika", "smtp-source", "50.0"),
    ]


def test_bars_say_by_how_much_they_were_missed() -> None:
    assert tables.bar_table([scenario()]).rows == (
        ("relay", "÷ Postfix", "≥ 3 ×", "≥ 5 ×", "4 ×", "met"),
        ("relay", "÷ the floor", "≥ 0.5", "", "0.25", "missed by 50%"),
        ("relay", "CPU ÷ Postfix", "≤ 0.5", "≤ 0.125", "0.125", "stretch"),
        ("relay", "500 sessions ÷ 50", "≥ 0.9", "≥ 1", "–", "not measured"),
    )


def test_the_bars_of_a_void_scenario_tell_nothing_but_that() -> None:
    assert [row[4:] for row in tables.bar_table([scenario("3 messages were lost")]).rows] == [("–", "VOID")] * 4


def test_busy_bystanders_are_told() -> None:
    assert tables.remarks(scenario()) == [
        "2 of 3 rounds were <short>",
        (
            "other programs used up to 30% of the machine meanwhile: "
            "trust the ratios more than the figures, and neither much"
        ),
    ]


def test_what_bystanders_used_is_told_of_each_scenario() -> None:
    told = "other programs used up to 2% of the machine meanwhile"
    assert tables.remarks(msgspec.structs.replace(scenario(), bystanders=0.02))[-1] == told
    assert not any(told[:14] in line for line in tables.remarks(msgspec.structs.replace(scenario(), bystanders=None)))


def test_an_interruption_is_told_with_the_figures_until_then() -> None:
    broken_off = msgspec.structs.replace(scenario(), interrupted="in round 2 of 9, after 8 turns", bystanders=None)
    assert tables.remarks(broken_off)[0] == (
        "interrupted in round 2 of 9, after 8 turns: these are the figures until then"
    )


def test_other_interpreters_are_compared_with_the_first() -> None:
    plain = scenario()
    newest = Contender(
        label="Postroika, newest", peer="postroika", version="0.1", settings="", load="", interpreter="newest"
    )
    more = (turn("Postroika, newest", 1, 0.25, 0.05), turn("Postroika, newest", 2, 0.5, 0.05))
    table = tables.scenario_table(
        msgspec.structs.replace(plain, contenders=(*plain.contenders, newest), turns=plain.turns + more)
    )
    columns = ("server", "messages/s", "÷ Postfix", "÷ Postroika", "CPU ÷ Postroika")
    shown = [[row[table.columns.index(column)] for column in columns] for row in table.rows]
    assert shown == [
        ["Postroika", "200", "4.00 ×", "", ""],
        ["Postfix", "50.0", "", "", ""],
        ["Postroika, newest", "300", "6.00 ×", "2.00 ×", "0.38 ×"],
        [FLOOR, "400", "", "", ""],
    ]


def test_each_interpreter_has_a_line_of_its_own() -> None:
    both = msgspec.structs.replace(report(), machine={"cores": 2, "interpreters": {"newest": "GCC 14", "old": "GCC 9"}})
    assert tables.machine_lines(both) == [
        "cores: 2",
        "interpreter newest: GCC 14",
        "interpreter old: GCC 9",
        "size: quick",
    ]


def test_distributions_of_several_turns_are_merged() -> None:
    one = Latency(p50=1, p95=1, p99=1, max=1, histogram=((1.0, 3), (2.0, 1)))
    other = Latency(p50=1, p95=1, p99=1, max=1, histogram=((2.0, 3), (5.0, 1)))
    assert tables.merged_latency([one, None, other]) == [(1.0, 0.375), (2.0, 0.875), (5.0, 1.0)]


def test_a_void_report_says_so_in_all_its_forms() -> None:
    void = report("3 messages were <lost>")
    terminal = io.StringIO()
    print_report(void, Console(file=terminal, width=200))
    assert "VOID: 3 messages were <lost>" in terminal.getvalue()
    assert terminal.getvalue().splitlines()[-1] == "VOID: relay. Their figures count for nothing."
    assert "**VOID: 3 messages were \\<lost\\>**" in markdown(void)
    assert "<p class=void>VOID: 3 messages were &lt;lost&gt;</p>" in page(void)


def test_the_terminal_shows_text_as_it_is() -> None:
    terminal = io.StringIO()
    odd = msgspec.structs.replace(scenario(), about="[bold]4 KB[/bold]")
    print_report(msgspec.structs.replace(report(), scenarios=(odd,)), Console(file=terminal, width=200))
    assert "relay: [bold]4 KB[/bold] (quick, 12 s)" in terminal.getvalue()


def test_markdown_has_tables_of_equal_width() -> None:
    text = markdown(report())
    tables_of_lines = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert [len(lines) for lines in tables_of_lines] == [6, 5, 3]
    for lines in tables_of_lines:
        assert len({line.replace("\\|", "").count("|") for line in lines}) == 1
    assert "- cpu: a\\|b\n" in text
    assert "4 KB \\<end to end\\>." in text


class _Page(HTMLParser):
    """Tags, attributes and texts; every element that must be closed is."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "xlink:href", "action"}]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_stands_alone_and_escapes_what_it_is_given() -> None:
    text = page(report())
    parsed = _Page(text)
    assert "script" not in parsed.tags
    assert parsed.tags >= {"svg", "polyline", "table", "details", "pre"}
    assert parsed.links == ["#relay"]
    assert any(_NASTY in data for data in parsed.texts)
    assert "url(" not in text
    assert "@import" not in text


def test_the_page_has_a_chart_for_each_kind_of_figure() -> None:
    titles = [part.partition("</h3>")[0] for part in page(report()).split("<h3>")[1:]]
    assert titles == [
        "Throughput, messages/s",
        "CPU of the server, ms per message",
        "Time until accepted",
        "Time until delivered",
        "Private memory in the last round",
        "Arrivals in the last round",
    ]


def test_bars_are_drawn_to_scale() -> None:
    drawing = ElementTree.fromstring(
        charts.bars([charts.Bar("<a>", 50, [40, 100], 0), charts.Bar("b", 25, [], 9)], "x/s")
    )
    widths = [float(rect.get("width", "")) for rect in drawing.iter("rect")]
    assert widths == [210.0, 105.0]
    assert [dot.get("cx") for dot in drawing.iter("circle")] == ["418.0", "670.0"]
    assert [text.text for text in drawing.iter("text")] == ["<a>", "50.0", "b", "25.0"]
    assert [title.text for title in drawing.iter("title")] == [
        "<a>: 50.0 x/s",
        "one round: 40.0 x/s",
        "one round: 100 x/s",
        "b: 25.0 x/s",
    ]


def test_lines_stay_within_their_grid() -> None:
    series = [charts.Line("a", [(0.02, 0.0), (3.0, 60.0), (700.0, 100.0)], 0), charts.Line("none", [], 1)]
    drawing = ElementTree.fromstring(charts.lines(series, "ms", "%", log_x=True))
    (line,) = drawing.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in (line.get("points") or "").split()]
    assert points == [(102.3, 250.0), (393.9, 106.0), (711.2, 10.0)]
    assert [text.text for text in drawing.iter("text")][6:12] == ["0.01", "0.1", "1", "10", "100", "1,000"]


def test_a_long_line_is_thinned_and_keeps_its_ends() -> None:
    points = [(float(x), float(x)) for x in range(10_001)]
    drawing = ElementTree.fromstring(charts.lines([charts.Line("a", points, 0)], "s", "n"))
    (line,) = drawing.iter("polyline")
    drawn = (line.get("points") or "").split()
    assert (len(drawn), drawn[0], drawn[-1]) == (200, "62.0,250.0", "732.0,10.0")


def test_no_lines_make_no_chart() -> None:
    assert charts.lines([charts.Line("a", [], 0)], "s", "n") == ""


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (56.78, "56.8"), (1.234, "1.23"), (0.0123, "0.0123"), (0, "0.00")]
)
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert charts.number_text(value) == text
