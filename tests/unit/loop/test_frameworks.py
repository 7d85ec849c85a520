"""A declaration's frameworks are imported where they are used, and behave as if they had been from the beginning."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from kilter.core.errors import DeclarationError

LIGHT = "import sys; from kilter.loop.declaration.checks import check; from kilter.loop.declaration.spec import load_source, spec_of; "
FLIGHTS = "examples/flights/flight_delay.py"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_reading_the_flights_declaration_imports_no_framework():
    code = (
        LIGHT
        + f"""
text = open({FLIGHTS!r}).read()
found = load_source(text, "flight_delay.py")
check(found, {{}})
spec_of(found).digest
print(sorted({{"lightgbm", "sklearn", "scipy"}} & set(sys.modules)))
"""
    )
    assert run(code) == "[]"


def test_the_digest_is_the_same_with_the_framework_loaded():
    code = (
        LIGHT
        + f"""
print(spec_of(load_source(open({FLIGHTS!r}).read(), "flight_delay.py")).digest)
"""
    )
    assert run(code) == run("import lightgbm; " + code)


def test_what_is_used_is_the_real_thing():
    file = textwrap.dedent("""
        import scipy.stats, scipy.special as special
        import scipy.linalg
        from scipy.stats import norm
        from scipy import optimize
        from sklearn.base import BaseEstimator
        class Mine(BaseEstimator): pass
        early = float(norm.cdf(0.0))
        def late():
            return (scipy.stats.norm.cdf(0.0), special.expit(0.0), scipy.linalg.norm([3.0, 4.0]),
                    isinstance(Mine(), BaseEstimator), optimize.brentq(lambda x: x - 1, 0, 3))
        def caught():
            from scipy.linalg import LinAlgError
            try:
                scipy.linalg.inv([[0.0]])
            except LinAlgError:
                return "singular"
    """)
    code = f"""
from kilter.loop.declaration.frameworks import Later, import_now, importing_later
space = {{"__name__": "file", "__builtins__": importing_later()}}
exec({file!r}, space)
assert space["early"] == 0.5, space["early"]
assert type(space["optimize"]) is Later
first = space["late"]()
assert space["caught"]() == "singular"
import_now(space)
assert not any(type(value) is Later for value in space.values())
assert space["late"]() == first, (space["late"](), first)
print(first[:4])
"""
    assert "0.5" in run(code)
    assert run(code).endswith("True)")


def test_a_framework_that_is_not_there_is_told_when_the_file_is_read():
    from kilter.loop.declaration.spec import load_source

    with pytest.raises(DeclarationError, match="No module named 'catboost'") as caught:
        load_source("from catboost import CatBoostClassifier\n", "file.py")
    assert caught.value.where == "file.py:1"


def test_a_name_that_a_framework_does_not_have_is_told_before_a_function_runs():
    code = """
from kilter.loop.declaration.frameworks import import_now, importing_later
space = {"__builtins__": importing_later()}
exec("from sklearn import nonsense", space)
try:
    import_now(space)
except ImportError as error:
    print(error)
"""
    assert run(code) == "cannot import sklearn.nonsense"


def test_other_imports_and_other_files_are_left_alone():
    code = """
import builtins
from kilter.loop.declaration.frameworks import importing_later
before = builtins.__import__
space = {"__builtins__": importing_later()}
exec("import json, polars as pl; from sklearn import base", space)
assert builtins.__import__ is before and space["json"].loads("1") == 1
import sklearn.base
assert sklearn.base.BaseEstimator
print("fine")
"""
    assert run(code) == "fine"
