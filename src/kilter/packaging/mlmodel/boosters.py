"""What boosters say about their own inputs: categories by column, and LightGBM's text inside of a skops file."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kilter.core.errors import Damaged, InvalidInput

Categories = dict[str, tuple[str, ...]]

_SCHEMA = "schema.json"
_LARGEST = 2 << 30


class Wrapped(NamedTuple):
    """A booster that lay inside of an estimator.

    Args:
        text: LightGBM's text.
        best: The best iteration; 0 for all.
        classes: The names of its classes; empty when it has none, or they can't be read without building them.
    """

    text: str
    best: int
    classes: tuple[str, ...]


def inside_skops(data: bytes) -> Wrapped:
    """Return the booster of a LightGBM estimator in a skops file, without building anything that the file names.

    Raises:
        Damaged: When there is none.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(_SCHEMA).file_size > _LARGEST:
                raise _no_booster()
            schema = json.loads(archive.read(_SCHEMA))
            if str(schema.get("__module__")).partition(".")[0] != "lightgbm":
                raise _no_booster()
            state = schema["content"]["content"]
            text = _value(state["_Booster"]["content"]["content"]["_handle"])
            best = _value(state["_best_iteration"]) if "_best_iteration" in state else 0
            classes = _classes(archive, state.get("_classes"))
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
        raise _no_booster() from error
    if not isinstance(text, str):
        raise _no_booster()
    return Wrapped(text, best if type(best) is int and best > 0 else 0, classes)


def _no_booster() -> Damaged:
    return Damaged("the file holds no fitted LightGBM estimator", where="model.skops")


def _value(node: Any) -> Any:
    """Return a plain value; skops keeps it as JSON inside of its JSON."""
    return json.loads(node["content"])


def _classes(archive: zipfile.ZipFile, node: Any) -> tuple[str, ...]:
    if not isinstance(node, dict) or node.get("type") != "numpy" or not isinstance(node.get("file"), str):
        return ()
    if archive.getinfo(node["file"]).file_size > 1 << 20:
        return ()
    found = np.load(io.BytesIO(archive.read(node["file"])), allow_pickle=False)
    return tuple(str(name) for name in found.tolist()) if found.ndim == 1 else ()


def of_lightgbm(booster: Any, texts: Sequence[str]) -> Categories:
    """Return a LightGBM booster's categories by column.

    It keeps them in the order of its columns that were categorical, without their names.

    Args:
        booster: The booster.
        texts: The names of the columns that hold text, in the order of the inputs.

    Raises:
        InvalidInput: When they don't belong together.
    """
    known = booster.pandas_categorical or []
    if len(known) != len(texts):
        raise InvalidInput(
            f"the model was fitted on {len(known)} columns of text, its signature has {len(texts)}",
            where="signature",
            fix="fit it on a pandas frame whose text columns are of the type category, and log it with that frame's input_example",
        )
    return {name: _texts(name, values) for name, values in zip(texts, known, strict=True)}


def of_xgboost(booster: Any) -> Categories:
    """Return the categories that an XGBoost booster keeps, by column.

    Raises:
        InvalidInput: When they are not text.
    """
    names = booster.feature_names or []
    types = booster.feature_types or []
    if "c" not in types:
        return {}
    model = json.loads(bytes(booster.save_raw("json")))["learner"]["gradient_booster"]
    while "model" not in model and "gbtree" in model:  # DART keeps its trees one level deeper
        model = model["gbtree"]
    held = model.get("model", {}).get("cats", {}).get("enc", [])
    found: Categories = {}
    for name, kind, entry in zip(names, types, held, strict=False):
        if kind != "c" or not entry.get("values"):
            continue
        if "offsets" not in entry:
            raise _numbers(name)
        offsets, data = entry["offsets"], bytes(value & 0xFF for value in entry["values"])
        found[name] = tuple(data[start:end].decode() for start, end in pairwise(offsets))
    return found


def _texts(name: str, values: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(value, str) for value in values):
        raise _numbers(name)
    return tuple(values)


def _numbers(name: str) -> InvalidInput:
    return InvalidInput(f"the categories of column {name!r} are no text", where="signature", allowed="categories that are text",
                        fix="make them text before the training: frame[name].astype(str).astype('category')")  # fmt: skip


def check_texts(texts: Sequence[str], known: Mapping[str, Sequence[str]]) -> None:
    """Refuse columns of text whose codes the model doesn't tell.

    Raises:
        InvalidInput: When there are some.
    """
    unknown = [name for name in texts if name not in known]
    if unknown:
        raise InvalidInput(
            f"the model doesn't say how it codes {', '.join(map(repr, unknown[:5]))}",
            where="signature",
            fix="fit it on a frame whose text columns are of the type category; XGBoost keeps them from 3.1 on",
        )
