"""What the documents show is true: Python runs, commands parse, files exist, and the declaration is the example's."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import sys
import textwrap
from pathlib import Path

import pytest

from kilter.cli.arguments import parse
from kilter.cli.main import GROUPS
from kilter.core.errors import InvalidInput
from kilter.loop.declaration.spec import load, spec_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "flights" / "flight_delay.py"
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.name != "cli.md"),
)
MODULES = {name: module for commands in GROUPS.values() for name, (module, _) in commands.items()}


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, kind: str) -> list[str]:
    found = re.findall(rf"^( *)```{kind}\n(.*?)^\1```", text(page), flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for _, block in found]


def shown(page: str) -> list[str]:
    """Return the command lines of a page's consoles, without their comments."""
    lines = "\n".join(blocks(page, "console")).splitlines()
    return [line[2:] for line in lines if line.startswith("$ ")]


def check_command(words: list[str]) -> None:
    command, *rest = words
    assert command in MODULES, command
    parse(command, importlib.import_module(f"kilter.cli.{MODULES[command]}").build, rest)


def _refusal(words: list[str]) -> str:
    try:
        check_command(words)
    except InvalidInput as error:
        return "required" if "required" in error.message else error.message
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_python_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightgbm")
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(page, "python")):
        name = f"kilter_docs_block_{number}"
        file = tmp_path / f"{name}.py"
        file.write_text(block, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page: str) -> None:
    for line in shown(page):
        if line.startswith("kilter "):
            check_command(shlex.split(line, comments=True)[1:])
        elif line.startswith("make "):
            assert re.search(rf"^{line.split()[1]}:", text("Makefile"), flags=re.MULTILINE), line


@pytest.mark.parametrize("page", PAGES)
def test_commands_in_sentences_exist(page: str) -> None:
    for line in re.findall(r"(?<!`)`kilter ([a-z][^`\n]*)`(?!`)", text(page)):
        # A sentence may leave out what is required, but names no other command, verb or option.
        assert _refusal(shlex.split(line)) in {"", "required"}, line


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        assert (folder / file).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", (folder / file).read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_the_declaration_is_the_examples(tmp_path: Path) -> None:
    pytest.importorskip("lightgbm")
    (declared,) = (block for block in blocks("README.md", "python") if "Loop(\n" in block)
    assert ast.dump(ast.parse(declared)) == ast.dump(ast.parse(EXAMPLE.read_text(encoding="utf-8")))
    file = tmp_path / "flight_delay.py"
    file.write_text(declared, encoding="utf-8")
    assert spec_of(load(file)).digest == spec_of(load(EXAMPLE)).digest


def test_the_state_machine_is_drawn_as_decide_draws_it() -> None:
    (drawn,) = blocks("ARCHITECTURE.md", "text")
    lines = [line.strip() for line in drawn.strip().splitlines()]
    assert "\n".join(lines) in "\n".join(
        line.strip() for line in (importlib.import_module("kilter.loop.decide").__doc__ or "").splitlines()
    )


def test_files_named_in_the_architecture_exist() -> None:
    roots = (ROOT, ROOT / "src" / "kilter", ROOT / "src" / "kilter" / "engines")
    named = re.findall(r"`([a-z_./]+/[a-z_.]*(?:\.py|/))`", text("ARCHITECTURE.md"))
    assert len(named) > 50
    missing = [name for name in named if not any((root / name).exists() for root in roots)]
    assert missing == []


def test_the_map_names_files_that_exist() -> None:
    (drawn, *_) = re.findall(r"^```\n(src/kilter/.*?)^```", text("ARCHITECTURE.md"), flags=re.MULTILINE | re.DOTALL)
    names = {path.name for folder in ("src", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")}
    missing = sorted(set(re.findall(r"\b[a-z_]+\.py\b", drawn)) - names)
    assert missing == []
    rooms = {path.parent.name for path in (ROOT / "src" / "kilter").glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"^  ([a-z]+)/", drawn, flags=re.MULTILINE))


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11), reason="each version of Python words its help a little differently"
)
def test_the_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    from kilter.cli.reference import commands

    monkeypatch.setenv("COLUMNS", "100")
    assert text("docs/cli.md") == commands(), "run `make docs`"


def test_the_readme_has_a_place_for_the_demos_summary() -> None:
    readme = text("README.md")
    assert readme.count("<!-- demo:begin -->") == readme.count("<!-- demo:end -->") == 1
