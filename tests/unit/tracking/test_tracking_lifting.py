"""A notebook becomes a module that can be imported, and its hidden state is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kilter.cli.main import main
from kilter.core.errors import InvalidInput
from kilter.tracking.lifting import lift

CELLS = [
    "%matplotlib inline\nimport math\nRATE = 0.5",
    "data = [1, 2, 3]\nscale = 2",
    "def clean(rows):\n    return [math.sqrt(row) * RATE for row in rows]",
    ["def bad(x):\n", "    return [x * scale for y in data]"],
    "print(clean(data))\nkilter.active_run().metric('rows', len(data))",
    "%%bash\nls",
]


def notebook(cells) -> bytes:
    made = [{"cell_type": "code", "source": cell, "metadata": {}, "outputs": []} for cell in cells]
    return json.dumps({"cells": [{"cell_type": "markdown", "source": "# Hi"}, *made], "nbformat": 4}).encode()


def test_functions_are_lifted_and_hidden_state_is_named(tmp_path, capsys):
    (tmp_path / "My analysis-1.ipynb").write_bytes(notebook(CELLS))
    assert main(["from-notebook", str(tmp_path / "My analysis-1.ipynb"), "--output", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["functions"]) == ("my_analysis_1", ["clean", "bad"])
    assert found["hidden"] == [{"function": "bad", "names": ["data", "scale"]}]
    assert found["skipped"] == ["%matplotlib inline", "%%bash"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        "KILTER_STORE": str(tmp_path / "s"),
    }
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path / "test_my_analysis_1.py")],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert "2 passed, 1 xfailed" in tests.stdout, tests.stdout
    done = subprocess.run(
        [sys.executable, "my_analysis_1.py"], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.stdout.startswith("[0.5, "), done.stderr
    assert main(["from-notebook", str(tmp_path / "My analysis-1.ipynb"), "--output", str(tmp_path), "--json"]) == 5
    capsys.readouterr()
    assert main(["runs", "list", "--store", str(tmp_path / "s"), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["experiment"], run["status"], run["metrics"][0]["last"]) == ("My analysis-1", "FINISHED", 3.0)


@pytest.mark.parametrize(
    "wrong", [b"", b"[]", b'{"cells": 1}', b"\xff", notebook(["def (:"]), notebook(["x = " + "(" * 500])]
)
def test_what_is_no_notebook_is_refused(wrong):
    with pytest.raises(InvalidInput):
        lift(wrong, "x")
