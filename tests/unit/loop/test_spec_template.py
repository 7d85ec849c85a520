"""What ``kilter init`` writes works as it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import kilter
from kilter.loop.declaration.checks import check
from kilter.loop.declaration.spec import load, spec_of
from kilter.loop.environment import load_environment

TEMPLATES = Path(kilter.__file__).parent / "cli" / "templates"


def test_each_template_declares_a_sound_loop(tmp_path: Path) -> None:
    found = sorted(path for path in TEMPLATES.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert found
    for template in found:
        folder = tmp_path / template.name
        shutil.copytree(template, folder, ignore=shutil.ignore_patterns("__pycache__"))
        assert load_environment(folder).port == 8700
        (file,) = (path for path in folder.glob("*.py") if "Loop(" in path.read_text())
        declared = load(file)
        assert check(declared) == []
        assert spec_of(declared).name in (folder / "README.md").read_text()


def test_the_tests_of_the_template_pass(tmp_path: Path) -> None:
    folder = tmp_path / "parcels"
    shutil.copytree(TEMPLATES / "parcels", folder, ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "3 passed" in run.stdout


def test_the_sample_rows_fit_the_declaration(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATES / "parcels", tmp_path / "parcels", ignore=shutil.ignore_patterns("__pycache__"))
    namespace: dict[str, object] = {"__name__": "sample_data"}
    exec((tmp_path / "parcels" / "sample_data.py").read_text(), namespace)  # noqa: S102 - it is our own file
    rows = namespace["parcels"](datetime(2026, 1, 5, tzinfo=UTC), days=20)  # type: ignore[operator]
    assert check(load(tmp_path / "parcels" / "parcel_delay.py"), {"parcels": rows.schema}) == []
    assert rows["hours"].null_count() > 0
