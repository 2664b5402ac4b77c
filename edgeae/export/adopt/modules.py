"""Modules of the user's own: built by their own code, filled with weights that are numbers and nothing else."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeae.errors import ExportError, InputError
from edgeae.export.cores import trace

__all__ = ["build_module", "export_modules", "halves"]

Modules = nn.Module | tuple[nn.Module, nn.Module]
Array = np.ndarray[Any, Any]


def build_module(made: object, weights: str | os.PathLike[str] | None) -> Modules:
    """Return a module, or an encoder and a decoder, in eval mode, filled with weights.

    Args:
        made: "package.module:factory", which is imported (from the working directory, too) and called, or modules.
        weights: A state dict: .safetensors, or what `torch.save` wrote; of a pair with the prefixes "encoder." and
            "decoder.".

    Raises:
        InputError: if there is no such factory, it makes something else, or the weights do not fit.
    """
    if isinstance(made, str):
        made = _call(made)
    if isinstance(made, nn.Module):
        whole: nn.Module = made
    elif isinstance(made, tuple | list) and len(made) == 2 and all(isinstance(part, nn.Module) for part in made):
        whole = nn.ModuleDict({"encoder": made[0], "decoder": made[1]})
    else:
        raise InputError(f"model: expected a torch.nn.Module or a pair (encoder, decoder), got {type(made).__name__}")
    if weights is not None:
        _fill(whole, Path(weights))
    whole.eval()
    return whole if isinstance(made, nn.Module) else (made[0], made[1])


def _call(text: str) -> object:
    module, _, factory = text.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), factory)
    except ModuleNotFoundError as problem:
        if problem.name is None or not (module == problem.name or module.startswith(f"{problem.name}.")):
            raise InputError(f"{text}: importing {module} fails: {problem}") from problem
        raise InputError(f"{text}: there is no module {problem.name}; run it where it can be imported") from None
    except AttributeError:
        raise InputError(f"{text}: {module} has no {factory!r}") from None
    finally:
        sys.path.remove(here)
    if isinstance(found, nn.Module) or not callable(found):
        return found
    try:
        return found()
    except TypeError as problem:
        raise InputError(
            f"{text}: cannot be called without arguments: {problem}; give a function that can"
        ) from problem


def _fill(module: nn.Module, path: Path) -> None:
    state = _read_state(path)
    for key in ("state_dict", "model_state_dict"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: holds more than weights; save the module's state_dict()")
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as problem:
        reason = " ".join(str(problem).split())
        raise InputError(f"{path}: does not fit {type(module).__name__}: {reason[:300]}") from None


def _read_state(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, zipfile.BadZipFile) as problem:
        raise InputError(f"{path}: is no whole file of weights: {str(problem).splitlines()[0]}") from None
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: holds more than weights, and reading that would run code; save the module's state_dict(), best "
            "as .safetensors"
        ) from None
    if not isinstance(state, Mapping):
        raise InputError(f"{path}: holds a {type(state).__name__}, no state dict")
    return state


@torch.no_grad()
def halves(made: Modules, rows: Array) -> tuple[nn.Module, nn.Module] | None:
    """Return encoder and decoder of a module that has such parts and does nothing but run them, else None.

    With recurrent layers there are none: their ONNX form needs the rewriting that foreign files get.

    Args:
        made: A module, or the pair, which is returned.
        rows: float32 [n, *row] as the module takes them.
    """
    parts = made if isinstance(made, tuple) else (made,)
    if any(isinstance(layer, nn.RNNBase) for part in parts for layer in part.modules()):
        return None
    if isinstance(made, tuple):
        return made
    encoder, decoder = getattr(made, "encoder", None), getattr(made, "decoder", None)
    if not isinstance(encoder, nn.Module) or not isinstance(decoder, nn.Module):
        return None
    x = torch.from_numpy(rows)
    whole = _run(made, x)
    try:
        z = encoder(x)
        decoded = decoder(z[0] if isinstance(z, tuple | list) else z)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return None
    whole = whole[0] if isinstance(whole, tuple | list) else whole
    same = isinstance(whole, Tensor) and isinstance(decoded, Tensor) and whole.shape == decoded.shape
    return (encoder, decoder) if same and torch.allclose(whole, decoded, rtol=1e-4, atol=1e-5) else None


def _run(module: nn.Module, x: Tensor) -> Any:
    try:
        return module(x)
    except (RuntimeError, TypeError, ValueError, IndexError) as problem:
        reason = str(problem).splitlines()[0]
        raise ExportError(
            f"{type(module).__name__} does not take rows of shape {list(x.shape[1:])}: {reason}"
        ) from None


@torch.no_grad()
def export_modules(made: Modules, rows: Array) -> list[onnx.ModelProto]:
    """Return a module, or encoder and decoder, as ONNX models with a free batch.

    Raises:
        ExportError: if PyTorch cannot export them.
    """
    x = torch.from_numpy(np.resize(rows, (2, *rows.shape[1:])))
    models = []
    for module in made if isinstance(made, tuple) else (made,):
        result = _run(module, x)
        results = list(result) if isinstance(result, tuple | list) else [result]
        names = ["x_hat"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
        models.append(trace(module, x, "x", names, opset=18, what=type(module).__name__))
        x = results[0]
    return models
