"""nodemailer, the library that most programs in Node.js send with; tools/prepare-peers installs it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from postroika.bench.peers.packages import default_root
from tests.system.process import program

_SCRIPT = Path(__file__).parent / "nodemailer" / "send.cjs"

RunNodemailer = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], list[dict[str, Any]]]


@pytest.fixture
def nodemailer() -> RunNodemailer:
    """`nodemailer(transport, messages)` sends them and tells what came of each; see nodemailer/send.cjs."""
    node = program("node", "nodejs")
    modules = default_root() / "nodemailer" / "node_modules"
    if not (modules / "nodemailer").is_dir():
        text = "missing peer: nodemailer is not installed; mend it with: tools/prepare-peers"
        if os.environ.get("CI"):
            pytest.fail(text, pytrace=False)
        pytest.skip(text)

    def send(transport: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        job = json.dumps({"transport": transport, "messages": messages})
        done = subprocess.run(
            [node, _SCRIPT], input=job, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "NODE_PATH": str(modules)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        results = json.loads(done.stdout)
        assert isinstance(results, list)
        return results

    return send
