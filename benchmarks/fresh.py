"""Fresh processes: from their start to the first score, and how much memory they take. They take turns.

Each is a script as short as the library allows; nothing of this package is imported in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import Case
from benchmarks.peers.plain import DEFAULT
from benchmarks.results import Fresh
from edgeae.runtime.bench import start_process

__all__ = ["SCRIPTS", "measure_fresh"]

BEFORE = """
import json, sys
import numpy as np
path, shape, blocks = sys.argv[1], tuple(json.loads(sys.argv[2])), int(sys.argv[3])
"""
AFTER = """
score(np.zeros((1, *shape), np.float32))
sys.stdout.write("scored\\n")
sys.stdout.flush()
def peak():
    try:
        with open("/proc/self/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    except OSError:
        return None
first = peak()
many(blocks)
sys.stdout.write(json.dumps([first, peak()]))
"""
LOOP = """
def many(blocks):
    rows = np.zeros((256, *shape), np.float32)
    for _ in range(blocks):
        score(rows)
"""
ERROR = "np.mean(np.square(x - x_hat), axis=tuple(range(1, x.ndim)))"

# peer: (name in the table, file that it reads, script)
SCRIPTS = {
    "onnxruntime": (
        DEFAULT,
        "graph",
        f"""
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
def score(x):
    x_hat = session.run(None, {{name: x}})[0]
    return {ERROR}
{LOOP}""",
    ),
    "edgeae": (
        "edgeae, fp32",
        "bundle",
        """
import edgeae
model = edgeae.load(path, device="cpu")
score = model.score
def many(blocks):
    score(np.zeros((256 * blocks, *shape), np.float32))
""",
    ),
    "openvino": (
        "OpenVINO",
        "graph",
        f"""
import openvino
compiled = openvino.Core().compile_model(path, "CPU")
def score(x):
    x_hat = compiled(x)[0]
    return {ERROR}
{LOOP}""",
    ),
    "litert": (
        "LiteRT, fp32",
        "tflite",
        f"""
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=path, num_threads=1)
interpreter.allocate_tensors()
source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
def score(x):
    result = np.empty(len(x), np.float32)
    for row in range(len(x)):
        interpreter.set_tensor(source, x[row : row + 1])
        interpreter.invoke()
        result[row] = np.mean(np.square(x[row] - interpreter.get_tensor(target)[0]))
    return result
{LOOP}""",
    ),
    "pytorch": (
        "PyTorch, eager",
        "pickle",
        """
import torch
model = torch.load(path, weights_only=False)
def score(x):
    with torch.inference_mode():
        x = torch.from_numpy(x)
        return (model(x) - x).square().flatten(1).mean(1).numpy()
"""
        + LOOP,
    ),
}


def measure_fresh(case: Case, peers: Sequence[str], folder: Path, *, runs: int, blocks: int = 64) -> list[Fresh]:
    """Start each peer's script `runs` times, in turns.

    Args:
        case: The model.
        peers: Names; those without a script are left out.
        folder: For the files that they read.
        runs: Processes of each.
        blocks: Times 256 rows that are scored after the first one.
    """
    names = [name for name in SCRIPTS if name in peers]
    commands = {name: _command(name, case, folder, blocks) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, tuple[int | None, int | None]] = {}
    # pip compiles what it installs; a first start, which is not timed, does so for a checkout.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for name in names:
        start_process(commands[name], environment)
    for turn in range(runs):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            duration, rest = start_process(commands[name], environment)
            seconds[name].append(duration)
            memory[name] = tuple(json.loads(rest))
    return [
        Fresh(
            case.name,
            SCRIPTS[name][0],
            runs,
            float(np.median(seconds[name])),
            min(seconds[name]),
            _ratio(seconds[name], seconds.get("onnxruntime")),
            *memory[name],
        )
        for name in names
    ]


def _command(name: str, case: Case, folder: Path, blocks: int) -> list[str]:
    _, kind, script = SCRIPTS[name]
    path = {"graph": case.graph, "bundle": case.bundle}.get(kind, folder / f"model.{kind}")
    if kind == "tflite":
        from benchmarks.tflite import write

        path.write_bytes(write(case.model, 1))
    elif kind == "pickle":
        import torch

        torch.save(case.model, path)
    shape = json.dumps(case.rows.shape[1:])
    return [sys.executable, "-c", BEFORE + script + AFTER, str(path), shape, str(blocks)]


def _ratio(own: Sequence[float], other: Sequence[float] | None) -> float | None:
    return None if other is None else float(np.median(np.divide(own, other)))
