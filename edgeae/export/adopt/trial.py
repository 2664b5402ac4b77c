"""Runs a model once per batch size and says what shapes its values had; a program of its own, so that it may crash.

`python trial.py FOLDER` reads FOLDER/model.onnx and FOLDER/order.json and writes FOLDER/seen.json and FOLDER/BATCH.npz.
It imports NumPy and ONNX Runtime only.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

__all__ = ["main"]


def main(folder: Path) -> None:
    """Carry out the order in a folder."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    order = json.loads((folder / "order.json").read_text())
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    seen: dict[str, object] = {}
    try:
        session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # onnxruntime's exceptions have no common base but Exception
        (folder / "seen.json").write_text(json.dumps({"load": str(problem).splitlines()[0]}))
        return
    names = [value.name for value in session.get_outputs()]
    for batch in order["batches"]:
        rng = np.random.default_rng(batch)
        x = rng.random((batch, *order["row"])) * order["scale"]
        try:
            values = session.run(names, {order["input"]: x.astype(order["dtype"])})
        except Exception as problem:  # as above
            seen[str(batch)] = str(problem).splitlines()[0]
            continue
        arrays = {name: value for name, value in zip(names, values, strict=True) if isinstance(value, np.ndarray)}
        seen[str(batch)] = {name: [value.dtype.name, list(value.shape)] for name, value in arrays.items()}
        kept = {name: arrays[name] for name in order["kept"] if name in arrays}
        # without their names, which may be anything: the arrays are called arr_0, arr_1, ...
        np.savez(folder / f"{batch}.npz", *kept.values())
        (folder / f"{batch}.json").write_text(json.dumps(list(kept)))
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
