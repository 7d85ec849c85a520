"""The other forms of a packaged model: which there are, whether they answer the same, and how long they take.

A form is a whole bundle: the same signature and example rows around other bytes. It is never better on paper: it is kept
only when its answers agree with those of the bundle that it was made from, on the example rows and on rows from
production, and when it was measured to be faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from kilter.core.digests import canonical_json, digest
from kilter.core.errors import InvalidInput, KilterError, Unavailable
from kilter.packaging.bundle import Parts, Runtime, folding_inputs, with_explainer
from kilter.packaging.environment import lock, version
from kilter.packaging.files import booster_of_lightgbm, booster_of_xgboost
from kilter.packaging.formats import Matrix
from kilter.packaging.loading import load_model
from kilter.packaging.native import Flavor
from kilter.packaging.records import FileEntry

FormName = Literal["native", "onnx", "folded", "int8"]

_ROUNDS = 5
_CALLS = 2000
_SECONDS = 0.04
_BATCH = 128
_GAIN = 1.1
"""A form has to be this many times faster: less is the noise of a machine, and a change has a price of its own."""


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """A form of a model, and what was found about it.

    Args:
        name: ``native`` (as it is), ``onnx``, ``folded`` or ``int8``.
        flavor: The runtime; empty when there is no such form.
        size: Bytes of the model file.
        difference: The largest difference from the native form's answers, on all rows; in units of the largest answer when
            that is more than 1 and no probability.
        rows: On how many rows it was compared.
        agrees: Whether that is within the tolerance.
        one_us: Microseconds for one row.
        batch_us: Microseconds for 128 rows.
        note: Why there is no such form.
    """

    name: FormName
    flavor: str = ""
    size: int = 0
    difference: float = 0.0
    rows: int = 0
    agrees: bool = False
    one_us: float = 0.0
    batch_us: float = 0.0
    note: str = ""


class Choice(NamedTuple):
    """What was found.

    Args:
        forms: All forms, the native one first.
        best: The bundle to keep; the one that was given when nothing is faster and agrees.
        name: Its name.
    """

    forms: tuple[Form, ...]
    best: Parts
    name: FormName


def choose(
    parts: Parts,
    real: Matrix | None = None,
    *,
    tolerance: float = 1e-5,
    rows: Literal[1, 128] = 1,
    tell: Callable[[str], None] | None = None,
) -> Choice:
    """Try every form of a model and return the fastest that agrees.

    Args:
        parts: The bundle as it is.
        real: Rows from production (n, d); None without.
        tolerance: How far an answer may be from the native form's: in units of probability, or of the largest answer when
            that is more than 1.
        rows: What is to be fast: one row, or 128 at once.
        tell: Takes a line about each form.
    """
    said = tell or _silent
    example = np.frombuffer(parts.example, dtype="<f8").reshape(parts.manifest.example_rows, -1)
    matrix = example if real is None or not len(real) else np.concatenate([example, real])
    reference = Runtime(parts.manifest, load_model(parts.manifest.spec(), parts.model)).predict(matrix)
    found: list[Form] = []
    made: dict[FormName, Parts] = {}
    for name, make in forms_of(parts):
        said(f"{name}: made and compared on {len(matrix)} rows")
        try:
            candidate = make()
            answers = Runtime(candidate.manifest, load_model(candidate.manifest.spec(), candidate.model)).predict(
                matrix
            )
        except KilterError as error:
            found.append(Form(name=name, note=error.message))
            continue
        difference = _difference(parts, reference, answers)
        agrees = bool(difference <= tolerance)
        one, batch = _measured(candidate, matrix)
        found.append(
            Form(
                name=name,
                flavor=candidate.manifest.flavor,
                size=len(candidate.model),
                difference=difference,
                rows=len(matrix),
                agrees=agrees,
                one_us=one,
                batch_us=batch,
            )
        )
        if agrees:
            made[name] = candidate
    speed: Callable[[Form], float] = (lambda form: form.one_us) if rows == 1 else (lambda form: form.batch_us)
    native = found[0]
    fastest = min((form for form in found if form.agrees), key=speed, default=native)
    best = fastest if fastest is not native and speed(fastest) * _GAIN <= speed(native) else native
    return Choice(tuple(found), made.get(best.name, parts), best.name)


def forms_of(parts: Parts) -> Iterator[tuple[FormName, Callable[[], Parts]]]:
    """Yield the forms that a bundle of this flavor can have."""
    yield "native", lambda: parts
    match parts.manifest.flavor:
        case "lightgbm-text" | "xgboost-ubjson":
            yield "onnx", lambda: _as_onnx(parts)
        case "skops":
            yield "folded", lambda: _folded(parts)
            yield "onnx", lambda: _as_onnx(parts)
            yield "int8", lambda: _as_int8(_as_onnx(parts))
        case "onnx":
            yield "int8", lambda: _as_int8(parts)
        case _:
            return


def _as_onnx(parts: Parts) -> Parts:
    spec = parts.manifest.spec()
    encoding = parts.manifest.signature.encoding
    spec = msgspec.structs.replace(spec, names=encoding.names, categories=encoding.categories)
    try:
        from kilter.packaging import onnx_convert as convert  # noqa: PLC0415 - an extra

        match parts.manifest.flavor:
            case "lightgbm-text":
                data = convert.from_lightgbm(booster_of_lightgbm(parts.model), spec)
            case "xgboost-ubjson":
                data = convert.from_xgboost(booster_of_xgboost(parts.model), spec)
            case _:
                from kilter.packaging.sklearn_skops import read  # noqa: PLC0415

                data = convert.from_sklearn(read(parts.model), spec)
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed", where="onnx", fix="pip install kilter[onnx]") from error
    except KilterError:
        raise
    except Exception as error:  # the converters have many ways to say that they don't know something
        raise InvalidInput(f"it can't be converted: {str(error)[:200]}", where="onnx") from error
    return _parts(parts, "onnx", data, "onnxruntime")


def _folded(parts: Parts) -> Parts:
    from kilter.packaging.folding import fold  # noqa: PLC0415
    from kilter.packaging.sklearn_skops import read  # noqa: PLC0415

    form = fold(read(parts.model), *folding_inputs(parts))
    if form is None:
        raise InvalidInput("it is not linear", where="folded")
    return _parts(parts, "linear", canonical_json(form), "numpy")


def _as_int8(parts: Parts) -> Parts:
    from kilter.packaging.onnx_convert import quantised  # noqa: PLC0415

    data = quantised(parts.model)
    if data is None:
        raise InvalidInput("there are no matrices to quantise", where="int8")
    return _parts(parts, "onnx", data, "onnxruntime")


def _parts(parts: Parts, flavor: Flavor, data: bytes, distribution: str) -> Parts:
    """Return a bundle like another one around other bytes, with its own answers to the example rows."""
    manifest = msgspec.structs.replace(
        parts.manifest,
        flavor=flavor,
        framework=f"{distribution}=={version(distribution)}",
        iterations=0,
        model=FileEntry(digest(data), len(data)),
        environment=lock(distribution),
        frame="",
        explainer=None if flavor == "linear" else parts.manifest.explainer,
    )
    rows = np.frombuffer(parts.example, dtype="<f8").reshape(manifest.example_rows, -1)
    answers = Runtime(manifest, load_model(manifest.spec(), data)).predict(rows)
    made = parts._replace(
        manifest=msgspec.structs.replace(manifest, example_values=tuple(answers.ravel().tolist())), model=data
    )
    before = parts.manifest
    if before.flavor in {"lightgbm-text", "xgboost-ubjson"}:  # a graph can't explain itself; what it was made from can
        return with_explainer(made, before.flavor, parts.model, before.iterations)
    return made


def _difference(parts: Parts, reference: Matrix, answers: Matrix) -> float:
    scale = 1.0
    if parts.manifest.signature.label in {"regression", "vector"}:
        scale = max(1.0, float(np.nanmax(np.abs(reference), initial=0.0)))
    missing = np.isnan(reference)
    if bool((missing != np.isnan(answers)).any()):
        return float("inf")
    return float(np.abs(np.where(missing, 0.0, reference - answers)).max(initial=0.0)) / scale


def _measured(parts: Parts, matrix: Matrix) -> tuple[float, float]:
    """Return the microseconds of a call for one row and for 128: the best of five rounds, each a median."""
    model = load_model(parts.manifest.spec(), parts.model)
    batch = np.ascontiguousarray(np.resize(matrix, (_BATCH, matrix.shape[1])))
    found = []
    for rows in (1, _BATCH):
        data = batch[:rows].tobytes()
        model.predict(data, rows, matrix.shape[1])
        found.append(min(_round(model.predict, data, rows, matrix.shape[1]) for _ in range(_ROUNDS)) * 1e6)
    return found[0], found[1]


def _round(predict: Callable[[bytes, int, int], bytes], data: bytes, rows: int, columns: int) -> float:
    times: list[float] = []
    begun = before = perf_counter()
    while len(times) < _CALLS and (before - begun < _SECONDS or len(times) < 3):
        predict(data, rows, columns)
        now = perf_counter()
        times.append(now - before)
        before = now
    return sorted(times)[len(times) // 2]


def _silent(_line: str) -> None:
    """Say nothing."""
