"""The state that a run is resumed from: resume.pt, written as training goes and read with weights_only."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgeae.bundle.strict import from_plain, parse_json, to_json
from edgeae.errors import InputError
from edgeae.training.config import TrainConfig
from edgeae.training.progress import Epoch

__all__ = ["State", "merge_options", "read_state", "state_path"]

FORMAT_VERSION = 1
# what may differ when a run is resumed: how far and on what, not what is computed
CHANGEABLE = ("epochs", "patience", "device", "devices", "precision", "threads", "data_dir")


@dataclass(frozen=True)
class State:
    """Training after a whole epoch. An epoch's randomness follows from the seed and its number, so none is kept here.

    Attributes:
        options: With the defaults filled in.
        data_digest: SHA-256 over the training rows.
        history: One record per epoch done.
        weights: The model's, after the last epoch.
        optimizer: The optimiser's state.
        scaler: The gradient scaler's state (fp16-mixed), else empty.
        best_epoch: From 1.
        best_weights: The model's after that epoch.
    """

    options: TrainConfig
    data_digest: str
    history: tuple[Epoch, ...]
    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    best_epoch: int
    best_weights: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """Serialise as the bytes of resume.pt."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        plain["format_version"] = FORMAT_VERSION
        plain["options"] = to_json(self.options).decode()
        plain["history"] = [dataclasses.asdict(epoch) for epoch in self.history]
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        return buffer.getvalue()


def state_path(out: Path) -> Path:
    """Where the state of an unfinished run is kept: beside the run directory, which only appears whole."""
    return out.with_name(f"{out.name}.resume.pt")


def read_state(out: Path) -> State:
    """Read the newest state of the run `out`: beside it, where training was killed, else inside it.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    path = state_path(out)
    if not path.exists():
        path = out / "resume.pt"
    if not path.exists():
        raise InputError(f"{out}: nothing to resume, there is neither {path} nor {state_path(out)}; train without it")
    try:
        plain = torch.load(path, map_location="cpu", weights_only=True)
        version = plain.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: of format version {version}, this edgeae reads {FORMAT_VERSION}; train anew")
        where = f"{path}:options"
        options = parse_json(plain.pop("options").encode(), where=where, error=InputError)
        history = tuple(Epoch(**record) for record in plain.pop("history"))
        return State(options=from_plain(TrainConfig, options, where=where, error=InputError), history=history, **plain)
    except (
        OSError,
        RuntimeError,
        EOFError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        KeyError,
        TypeError,
        AttributeError,
    ) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{path}: not a readable resume state ({reason}); train anew with --force") from None


def merge_options(saved: TrainConfig, wanted: TrainConfig) -> TrainConfig:
    """Return the saved options with the wanted epochs, device and the like; anything else must be as it was.

    Raises:
        InputError: if `wanted` asks for another network, objective or data handling than the run has.
    """
    changes = {}
    for field in dataclasses.fields(TrainConfig):
        value = getattr(wanted, field.name)
        if value == field.default or value == getattr(saved, field.name):
            continue
        if field.name not in CHANGEABLE:
            raise InputError(
                f"{field.name} was {getattr(saved, field.name)!r} in the run to resume and cannot become {value!r}; "
                f"only {', '.join(CHANGEABLE)} can change: leave it out, or start anew with --force"
            )
        changes[field.name] = value
    return dataclasses.replace(saved, **changes)
