"""The benchmarks can be believed to this extent: they run, side by side, and count every message."""

import io
import shutil
from pathlib import Path
from tempfile import mkdtemp

import msgspec
from rich.console import Console

from benchmarks import rounds, scenario
from benchmarks.report import print_table


def test_both_servers_relay_the_same_load_in_turns() -> None:
    wanted = scenario.load("relay")
    load = msgspec.structs.replace(wanted.load, sessions=5, messages=50, warm_up=10)
    # Not below pytest's directory, which Postfix's own user may not enter.
    directory = Path(mkdtemp(prefix="postroika-bench-"))
    directory.chmod(0o755)
    told: list[str] = []
    try:
        results = rounds.run("relay", msgspec.structs.replace(wanted, rounds=2, load=load), directory, told.append)
    finally:
        shutil.rmtree(directory)
    assert [line.partition(" messages/s")[0].rpartition(":")[0] for line in told[2:]] == [
        "relay: round 1, Postroika",
        "relay: round 1, Postfix",
        "relay: round 2, Postroika",
        "relay: round 2, Postfix",
    ]
    assert results.raw["messages"] == 50
    for server in ("Postroika", "Postfix"):
        for one in results.raw[server]:
            assert 0 < one["accepted_s"] <= one["seconds"]
            assert one["cpu_s"] > 0
            assert one["resident_bytes"] > one["private_bytes"] > 0
    output = io.StringIO()
    print_table(results.rows, Console(file=output, width=120))
    assert [line.split("  ")[0].strip() for line in output.getvalue().splitlines()[1:]] == [
        "relay: speed",
        "",
        "relay: CPU",
        "relay: peak memory, private",
        "relay: peak memory, resident",
    ]
