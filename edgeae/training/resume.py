"""The state that a run is resumed from: resume.pt, written as training goes and read with weights_only."""

from __future__ import annotations

import dataclasses
import io
import logging
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from edgeae.bundle.atomic import recovered
from edgeae.bundle.strict import from_plain, parse_json, to_json
from edgeae.errors import InputError
from edgeae.training.config import TrainConfig, chosen
from edgeae.training.loop import learning_rate
from edgeae.training.progress import Epoch

__all__ = ["State", "check_rate", "check_state", "fitting", "merge_options", "read_state", "state_path"]

log = logging.getLogger("edgeae")

Schedule = Literal["constant", "cosine", "onecycle"]

FORMAT_VERSION = 1
FAINT = 0.2  # of the peak: what is left of the learning rate in the last 30 % of a schedule
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


def check_state(out: Path, *, force: bool) -> None:
    """Refuse to start anew where an unfinished run could go on.

    Raises:
        InputError: if `out` has an unfinished run's state beside it and `force` is false.
    """
    if state_path(out).exists() and not force:
        raise InputError(
            f"{state_path(out)}: a run to {out} was cut off here; go on with it (--resume, resume=True), or start anew "
            "(--force, force=True)"
        )


def read_state(out: Path) -> State:
    """Read the newest state of the run `out`: beside it, where training was killed, else inside it.

    Nothing is unpickled but tensors and plain containers (weights_only), and nothing is unpacked that is larger than
    the file.

    Raises:
        InputError: if there is none, or it is damaged.
    """
    inside = recovered(out) / "resume.pt"
    found = [path for path in (state_path(out), inside) if path.exists()]
    if not found:
        raise InputError(f"{out}: nothing to resume, there is neither {inside} nor {state_path(out)}; train without it")
    path = max(found, key=lambda file: file.stat().st_mtime_ns)  # killed at the very end, the one beside is left over
    try:
        _check_archive(path)
        plain = torch.load(path, map_location="cpu", weights_only=True)
        version = plain.pop("format_version")
        if version != FORMAT_VERSION:
            raise InputError(f"{path}: of format version {version}, this edgeae reads {FORMAT_VERSION}; train anew")
        return _state(plain, str(path))
    except InputError:
        raise
    except Exception as problem:  # PyTorch's unpickler raises whatever the damage leads to
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(f"{path}: not a readable resume state ({reason}); train anew with --force") from None


def _check_archive(path: Path) -> None:
    """Refuse all but the .zip that torch.save writes, in which nothing is compressed."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("it claims to hold more than it does")


def _state(plain: dict[str, Any], path: str) -> State:
    where = f"{path}:options"
    options = parse_json(plain.pop("options").encode(), where=where, error=InputError)
    history = tuple(
        from_plain(Epoch, record, where=f"{path}:history", error=InputError) for record in plain.pop("history")
    )
    state = State(options=from_plain(TrainConfig, options, where=where, error=InputError), history=history, **plain)
    for weights in (state.weights, state.best_weights):
        if not all(isinstance(tensor, Tensor) for tensor in weights.values()):
            raise TypeError("its weights are not tensors")
    if not (isinstance(state.optimizer, dict) and isinstance(state.scaler, dict)):
        raise TypeError("its optimiser has no state")
    if not 1 <= state.best_epoch <= len(history):
        raise ValueError(f"its best epoch is {state.best_epoch} of {len(history)}")
    return state


def check_rate(state: State, options: TrainConfig, out: Path) -> None:
    """Say at which learning rate a run goes on, and warn where its schedule leaves next to none.

    Args:
        state: What is resumed.
        options: Of the whole run, defaults filled in.
        out: The run, for messages.
    """
    done, total = len(state.history), chosen(options.epochs)
    peak = chosen(options.lr)
    schedule: Schedule = chosen(options.schedule)
    rates = [learning_rate(peak, schedule, epoch / total) for epoch in range(done, total)]
    log.info("%s: goes on after epoch %d of %d at a learning rate of %.2g", out, done, total, rates[0])
    if total != state.options.epochs and max(rates) < FAINT * peak:
        log.warning(
            "%s: so near its end the %s schedule leaves at most %.2g of the learning rate %.2g: little will change; "
            "ask for more epochs, for instance --epochs %d, or train anew",
            *(out, schedule, max(rates), peak, 2 * done),
        )


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Turn what PyTorch raises in the block, for a state of another network, into an InputError about `path`."""
    try:
        yield
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InputError(
            f"{path}: the state to resume does not fit this model ({reason}); train anew with --force"
        ) from (problem)


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
