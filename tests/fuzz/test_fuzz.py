"""A short run of the fuzzer for each kernel: from the corpus and one seed, and so with the same inputs each time.

`make fuzz` looks for longer.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).parents[2]
_RUNS = 8000


@pytest.mark.parametrize("kernel", TARGETS)
def test_fuzzer_finds_no_difference_between_kernel_and_twin(kernel: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        missing = "missing peer: atheris, which has no wheel for this Python or machine"
        if os.environ.get("CI"):
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    command = [sys.executable, "-m", "tests.fuzz", kernel, "-seed=1", f"-runs={_RUNS}", str(tmp_path / "found")]
    run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-8000:]
    assert f"Done {_RUNS} runs" in run.stderr
