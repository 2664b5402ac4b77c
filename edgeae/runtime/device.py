"""Which device runs a model: decided and verified when the model is loaded, never silently the CPU."""

from __future__ import annotations

import contextlib
import io
import logging
import re
from functools import cache
from typing import Any, Literal

from edgeae.bundle.record import record
from edgeae.errors import DeviceError, InputError
from edgeae.runtime import native, process
from edgeae.runtime.denormals import DenormalsAsZero
from edgeae.runtime.gate import GATE
from edgeae.runtime.options import Options
from edgeae.runtime.ort import ERRORS, ort

__all__ = ["Device", "choose_device", "create_session"]

log = logging.getLogger("edgeae")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
CUDA_OPTIONS = {
    "use_tf32": "0",  # TF32 rounds inputs to a 10-bit mantissa: scores would differ from the CPU's
    "cudnn_conv_algo_search": "HEURISTIC",  # the default, EXHAUSTIVE, takes seconds for every new batch size
}

# The smallest model there is, y = Relu(x) for one float: running it shows whether a provider works.
PROBE = (
    b'\x08\x08:3\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)


@record(frozen=True)
class Device:
    """The CPU, or one CUDA device."""

    kind: Literal["cpu", "cuda"]
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def choose_device(name: str) -> Device:
    """Return the device called "auto", "cpu", "cuda" or "cuda:1", after a CUDA device has run a tiny model.

    Raises:
        InputError: if the name is none of these.
        DeviceError: if a CUDA device was asked for and does not work, with the reason and the remedy.
    """
    if name == "cpu":
        return Device("cpu")
    if name == "auto":
        return _choose_automatically()
    match = re.fullmatch(r"cuda(?::(\d+))?", name) if isinstance(name, str) else None
    if match is None:
        raise InputError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:0, cuda:1, ...")
    device = Device("cuda", int(match[1] or 0))
    _verify(device)
    return device


def create_session(
    data: bytes, device: Device, options: Options, *, operators: bool = False, record: bool = False
) -> Any:
    """Return an `onnxruntime.InferenceSession` that runs wholly on `device`.

    Args:
        data: The ONNX file.
        device: Where to run it.
        options: Of the session.
        operators: Whether it uses the native operator library.
        record: Whether a CUDA session records its run as a CUDA graph, and from then on replays that: see cuda.py.

    Raises:
        EdgeaeError: if that library has not been built or does not load.
        DeviceError: if a CUDA device did not take the whole graph.
        InputError: if a provider option is unknown.
    """
    with DenormalsAsZero():  # also puts back what session.set_denormal_as_zero does to the thread of the first session
        if device.kind == "cpu":
            session = _create_on_cpu(data, options, operators)
        else:
            with GATE.shared():
                session = _create_on_gpu(data, device, options, record)
    process.keep_in_children(session._sess)
    return session


def _create_on_cpu(data: bytes, options: Options, operators: bool) -> Any:
    made = options.session_options(forbid_cpu=False)
    if operators:
        native.register(made)
    return ort.InferenceSession(data, made, providers=[CPU], enable_fallback=0)


def _create_on_gpu(data: bytes, device: Device, options: Options, record: bool) -> Any:
    made = options.session_options(forbid_cpu=True)
    settings = {"device_id": str(device.index)} | CUDA_OPTIONS | {key: str(v) for key, v in options.provider.items()}
    # A session that records would replay its first batch for ever: it is for those who know, whatever the options say.
    settings["enable_cuda_graph"] = "1" if record else "0"
    try:
        session = ort.InferenceSession(data, made, providers=[(CUDA, settings)], enable_fallback=0)
    except ERRORS as problem:
        if data != PROBE and "fallback to CPU EP" in str(problem):  # of the probe it means that nothing runs there
            raise DeviceError(
                f"{device}: the CUDA provider of {_wheels()} lacks some operator of the graph, which would run on the "
                "CPU; use precision='fp32' or 'fp16' if it is an int8 graph, or device='cpu'"
            ) from problem
        raise _not_working(device, str(problem).splitlines()[0]) from problem
    if session.get_providers()[0] != CUDA:
        raise _not_working(device, "the CUDA provider did not start (driver, CUDA or cuDNN libraries missing)")
    unknown = sorted(set(settings) - set(session.get_provider_options()[CUDA]))
    if unknown:
        raise InputError(f"options: provider: the CUDA provider has no option {unknown[0]!r}")
    return session


@cache
def _choose_automatically() -> Device:
    """Choose once per process, so that what was chosen is logged once."""
    if CUDA not in ort.get_available_providers():
        # news only where there is a GPU to be missed
        import shutil  # here, for a fast start

        level = logging.INFO if shutil.which("nvidia-smi") else logging.DEBUG
        if log.isEnabledFor(level):  # looking for the wheels takes a tenth of a cold start
            log.log(level, "device auto: cpu, because %s has no CUDA provider", _wheels())
        return Device("cpu")
    try:
        device = choose_device("cuda")
    except DeviceError as problem:
        log.warning("device auto: cpu, because %s", problem)
        return Device("cpu")
    log.info("device auto: %s, because the CUDA provider of %s works", device, _wheels())
    return device


@cache
def _verify(device: Device) -> None:
    if CUDA not in ort.get_available_providers():
        installed = _installed()
        remedy = f"pip uninstall {' '.join(installed)}; then pip install 'edgeae[gpu]'"
        if "onnxruntime-gpu" in installed and len(installed) > 1:
            raise DeviceError(f"{device}: {_wheels()} are both installed and overwrite each other; run: {remedy}")
        raise DeviceError(f"{device}: the installed {_wheels()} has no CUDA provider; run: {remedy}")
    _preload_libraries()
    create_session(PROBE, device, Options())


@cache
def _preload_libraries() -> None:
    """Let ONNX Runtime load the CUDA libraries that pip installed; it prints what is missing, which we do not."""
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def _not_working(device: Device, reason: str) -> DeviceError:
    return DeviceError(
        f"{device}: {_wheels()} cannot use it: {reason}; check that nvidia-smi lists the device, and that "
        "pip install 'edgeae[gpu]' brought CUDA and cuDNN; or use device='cpu'"
    )


def _installed() -> dict[str, str]:
    """Return the installed ONNX Runtime wheels and their versions."""
    from importlib import metadata  # a tenth of the time that loading a bundle takes, and rarely needed

    found = {}
    for name in ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found or {"onnxruntime": str(ort.__version__)}


def _wheels() -> str:
    return " and ".join(f"{name} {version}" for name, version in _installed().items())
