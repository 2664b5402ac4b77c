"""Dense networks, faster than ONNX Runtime's own operators: a whole network as one node.

The node is an operator of a small C++ library (runtime/cpp/ops) that is used only where it has been built:

    python -m edgeae.runtime.native build --onnxruntime-include DIR

and only where asked for (`edgeae.load(..., options={"native": True})`) or chosen by `edgeae tune`. The model
then runs graphs that are written in memory from the bundle's own, which stay the default and the truth: every rewritten
graph must give the bundle's golden results, for a few rows and for many, before it answers.

At int8 the integers are those of the bundle's int8 graph, with its scales: scores differ from it by rounding only, so
that its threshold holds. A graph that is no dense chain runs as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeae.bundle.protobuf import parse_model
from edgeae.errors import EdgeaeError
from edgeae.runtime.native.library import COMMAND, find_library

__all__ = ["find_library", "register", "require", "rewrite"]


def rewrite(data: bytes, *, int8: bool = False) -> bytes | None:
    """Return a graph with one node that computes what `data` does, or None if `data` is no dense chain.

    Args:
        data: The bytes of an ONNX file that passed `edgeae.bundle.guard.check_graph`.
        int8: Quantise a float32 scorer: the weights with one scale per output, activations row by row. Half of
            the scores come within about 0.2 % of the float32 ones and nearly all within 1 %; use the float32 threshold.
            For scorers only, which normalise first: an encoder may read raw units, whose range one feature sets. An
            int8 graph is int8 anyway.

    Example:
        >>> from pathlib import Path
        >>> rewritten = rewrite(Path("export/golden/dense/scorer.onnx").read_bytes())
        >>> [node["op"] for node in parse_model(rewritten)["graph"]["nodes"]]
        ['DenseChain']
    """
    # 5 ms of a cold start that most never need
    from edgeae.runtime.native.chain import quantised, to_model
    from edgeae.runtime.native.recognise import recognise

    model = parse_model(data)
    chain = recognise(model)
    if chain is None:
        return None
    if int8 and chain.layers[0].quantised is None:
        return to_model(quantised(chain), model) if chain.score != "none" else None
    return to_model(chain, model)


def require() -> Path:
    """Return where the operator library is.

    Raises:
        EdgeaeError: if it has not been built or is not safe to load.
    """
    path = find_library()
    if path is None:
        raise EdgeaeError(f"native: the operator library has not been built; build it with: {COMMAND}")
    return path


def register(session_options: Any) -> None:
    """Let sessions made with these `onnxruntime.SessionOptions` use the operator library.

    Raises:
        EdgeaeError: if it has not been built, is not safe to load, or does not load.
    """
    path = require()
    try:
        session_options.register_custom_ops_library(str(path))
    except Exception as problem:  # ONNX Runtime's errors share no other base
        reason = str(problem).splitlines()[0]
        raise EdgeaeError(f"{path}: does not load: {reason}; build it again with: {COMMAND}") from problem
