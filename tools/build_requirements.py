"""Prints what pyproject.toml requires for building, one requirement a line, for pip."""

import tomllib
from pathlib import Path

with Path("pyproject.toml").open("rb") as file:
    print(*tomllib.load(file)["build-system"]["requires"], sep="\n")
