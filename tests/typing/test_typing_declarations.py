"""The type checker accepts the declarations that work and rejects the wrong ones, line by line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRONG = Path(__file__).parent / "wrong_declarations.py"
EXAMPLES = sorted((ROOT / "examples").glob("*/flight_delay.py"))

_REPORT = re.compile(r"^(?P<file>[^:]+):(?P<line>\d+): error: (?P<text>.*)$")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, str]]:
    """Run the type checker once over all files; return file name to line to messages."""
    settings = tmp_path_factory.mktemp("mypy") / "mypy.ini"
    settings.write_text(
        "[mypy]\nstrict = True\npython_version = 3.11\nmypy_path = src\nnamespace_packages = True\n"
        "[mypy-lightgbm.*,sklearn.*,skops.*,lmdb.*,xgboost.*,httptools.*,moto.*]\nignore_missing_imports = True\n"
        # what is under test is how the package looks from outside; its own files have a check of their own
        "[mypy-kilter.*]\nignore_errors = True\nfollow_imports = silent\n"
    )
    files = [str(path.relative_to(ROOT)) for path in (WRONG, *EXAMPLES)]
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", settings, "--no-error-summary", "--hide-error-context", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode in {0, 1}, found.stderr
    by_file: dict[str, dict[int, str]] = {}
    for line in found.stdout.splitlines():
        match = _REPORT.match(line)
        if match is not None:
            lines = by_file.setdefault(Path(match["file"]).name, {})
            number = int(match["line"])
            lines[number] = f"{lines.get(number, '')}\n{match['text']}"
    return by_file


def expected() -> dict[int, str]:
    lines = enumerate(WRONG.read_text().splitlines(), 1)
    return {number: line.partition("  # error: ")[2] for number, line in lines if "  # error: " in line}


def test_there_are_enough_wrong_declarations() -> None:
    assert len(expected()) >= 30


def test_each_wrong_declaration_is_rejected_and_no_other_line(reported: dict[str, dict[int, str]]) -> None:
    found = reported.get(WRONG.name, {})
    wanted = expected()
    assert {number: text for number, text in found.items() if number not in wanted} == {}
    missed = [
        f"line {number}: expected {words!r}, found {found.get(number, 'nothing')!r}"
        for number, words in wanted.items()
        if words not in found.get(number, "")
    ]
    assert missed == []


def test_the_examples_are_accepted(reported: dict[str, dict[int, str]]) -> None:
    assert EXAMPLES
    assert [reported.get(path.name) for path in EXAMPLES if path.name in reported] == []
