"""The inputs that the fuzzer has found worth keeping, on the kernels as they are installed."""

from __future__ import annotations

import pytest

from tests.fuzz import corpus
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("kernel", TARGETS)
def test_kernel_finds_in_the_corpus_what_its_twin_finds(kernel: str) -> None:
    for octets in corpus.read(kernel):
        TARGETS[kernel](octets)
