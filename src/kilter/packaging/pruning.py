"""Magnitude pruning: the weights that matter least become zero.

Source: Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks". Zeros take as many bytes as other
weights do, but a pruned graph deflates to less, and that is what is sent to a device; ask for it with
:attr:`kilter.packaging.compression.Limits.packed`.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np

from kilter.core.errors import InvalidInput, Unavailable
from kilter.packaging.bundle import Parts, folding_inputs
from kilter.packaging.compression import Limits, Score, require, score
from kilter.packaging.quantisation import answers_of

_WEIGHTED = {"MatMul": (0, 1), "Gemm": (1,), "Conv": (1,)}
"""Operators with weights, and at which of their inputs those may stand."""


def pruned(parts: Parts, share: float, limits: Limits | None = None) -> tuple[bytes, Score]:
    """Prune an ONNX graph, and return its bytes with what that costs.

    Args:
        parts: A bundle whose model is an ONNX graph.
        share: The share of each matrix's weights that become zero, 0 to 1.
        limits: What it may cost.

    Raises:
        InvalidInput: When the bundle holds no graph, or the share is none.
        GateRefused: When it misses a limit.
        Unavailable: When ONNX is not installed.
    """
    if parts.manifest.flavor != "onnx":
        raise InvalidInput(f"the model is of the format {parts.manifest.flavor}", where="pruning", allowed="onnx")
    data = prune_graph(parts.model, share)
    _, rows = folding_inputs(parts)
    wanted = np.array(parts.manifest.example_values).reshape(len(rows), -1)
    label = parts.manifest.signature.label
    name = f"pruned {share:.0%}"
    judged = score(name, data, answers_of(parts, data, rows), wanted, len(parts.model), label, limits or Limits())
    require(judged)
    return data, judged


def prune_graph(data: bytes, share: float) -> bytes:
    """Return an ONNX graph whose smallest weights are zero, matrix by matrix.

    Args:
        data: The graph.
        share: The share of each matrix's weights that become zero, 0 to 1.

    Raises:
        InvalidInput: When the share is none, or the graph has no matrices of weights.
        Unavailable: When ONNX is not installed.
    """
    _check(share)
    try:
        import onnx  # noqa: PLC0415 - an extra
        from onnx import numpy_helper  # noqa: PLC0415
    except ImportError as error:
        raise Unavailable("onnx is not installed", where="pruning", fix="pip install kilter[onnx]") from error
    model = onnx.load_model_from_string(data)
    weights = {
        node.input[place]
        for node in model.graph.node
        for place in _WEIGHTED.get(node.op_type, ())
        if place < len(node.input)
    }
    found = [one for one in model.graph.initializer if one.name in weights and len(one.dims) > 1]
    if not found:
        raise InvalidInput(
            "the graph has no matrices of weights", where="pruning", allowed="networks and linear models"
        )
    for tensor in found:
        values = numpy_helper.to_array(tensor).copy()
        values[_smallest(np.abs(values), share)] = 0
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return bytes(model.SerializeToString(deterministic=True))


def prune_module(module: Any, share: float) -> Any:
    """Return a copy of a PyTorch module whose smallest weights are zero, matrix by matrix; train it a little more, and deploy it.

    Args:
        module: A ``torch.nn.Module``; it stays as it is.
        share: The share of each matrix's weights that become zero, 0 to 1.

    Raises:
        InvalidInput: When the share is none, or the module has no matrices of weights.
    """
    _check(share)
    made = copy.deepcopy(module)
    matrices = [one for one in made.parameters() if one.ndim > 1]
    if not matrices:
        raise InvalidInput("the module has no matrices of weights", where="pruning")
    for parameter in matrices:
        values = parameter.detach().cpu().numpy()
        kept = ~_smallest(np.abs(values), share)
        parameter.data.mul_(parameter.data.new_tensor(kept.tolist()))
    return made


def sparsity(data: bytes) -> float:
    """Return the share of zeros among the weights of an ONNX graph's matrices, 0 to 1."""
    import onnx  # noqa: PLC0415 - an extra
    from onnx import numpy_helper  # noqa: PLC0415

    arrays = [
        numpy_helper.to_array(one) for one in onnx.load_model_from_string(data).graph.initializer if len(one.dims) > 1
    ]
    total = sum(one.size for one in arrays)
    return sum(int((one == 0).sum()) for one in arrays) / total if total else 0.0


def _check(share: float) -> None:
    if not 0 <= share < 1:
        raise InvalidInput(f"a share of {share}", where="pruning", allowed="0 or more, below 1")


def _smallest(sizes: Any, share: float) -> Any:
    """Return which values are among the smallest; of equals, those that come first."""
    order = np.argsort(sizes, axis=None, kind="stable")
    found = np.zeros(sizes.size, dtype=bool)
    found[order[: math.floor(sizes.size * share)]] = True
    return found.reshape(sizes.shape)
