"""The doctor: what it makes of machines that are as they should be, and of many that are not."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from edgeae.cli import main
from edgeae.doctor import Finding, cuda, examine, machine, packages, places, providers
from edgeae.doctor.cuda import Driver, judge_cuda
from edgeae.doctor.machine import Processor
from edgeae.doctor.providers import CPU, CUDA, Runtime, judge_runtime
from tests.test_borders import run


def find(findings: Iterable[Finding], name: str) -> Finding:
    """Return the finding of that name."""
    (found,) = (finding for finding in findings if finding.name == name)
    return found


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that these packages, and no others, are installed; "_" in a name means "-"."""

    there = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(
        metadata,
        "distributions",
        lambda: [SimpleNamespace(metadata={"Name": name}, version=number) for name, number in there.items()],
    )
    monkeypatch.setattr(metadata, "version", version)


def test_this_machine_is_well() -> None:
    findings = examine()
    assert {finding.topic for finding in findings} == {"machine", "onnxruntime", "cuda", "places", "packages"}
    assert find(findings, CPU) == Finding("onnxruntime", CPU, "ok", "runs a model")
    assert find(findings, "wheel").status == "ok" and find(findings, "import").status == "ok"
    for finding in findings:
        assert finding.detail and (finding.status == "ok") is (finding.remedy == ""), finding


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeae import doctor

    well = (Finding("machine", "cores", "ok", "2 usable of 2"), Finding("cuda", "driver", "warn", "[none]", "do [x]"))
    ill = (*well, Finding("onnxruntime", "wheel", "fail", "two of them", "pip uninstall"))
    for findings, code, words in ((well, 0, "0 failed, 1 with a warning"), (ill, 1, "1 failed, 1 with a warning")):
        monkeypatch.setattr(doctor, "examine", lambda findings=findings: findings)
        done = CliRunner().invoke(main, ["doctor"])
        assert (
            done.exit_code == code and words in done.output and "-> do [x]" in done.output and "[none]" in done.output
        )
        done = CliRunner().invoke(main, ["doctor", "--json"])
        assert done.exit_code == code
        assert [Finding(**item) for item in json.loads(done.output)] == list(findings)


@pytest.mark.parametrize("how", ["ModuleNotFoundError", "ImportError"])
def test_it_works_where_onnxruntime_is_missing_or_broken(tmp_path: Path, how: str) -> None:
    broken = tmp_path / "onnxruntime"
    broken.mkdir()
    (broken / "__init__.py").write_text(f"raise {how}('libonnxruntime.so.1: cannot open shared object file: No')")
    code = f"""
        import os, sys
        os.environ["PYTHONPATH"] = {str(tmp_path)!r}
        sys.path.insert(0, {str(tmp_path)!r})
        from edgeae.doctor.providers import judge_runtime, try_runtime
        for finding in judge_runtime(try_runtime({{"onnxruntime": "99.0"}})):
            print(finding.status, finding.name, finding.detail, finding.remedy)
    """
    output = run(code)
    assert "fail import libonnxruntime.so.1: cannot open shared object file" in output
    assert "pip uninstall -y onnxruntime && pip install 'edgeae[cpu]'" in output


def test_it_never_imports_onnxruntime_itself() -> None:
    code = (
        "import sys, edgeae.doctor; edgeae.doctor.examine(); print(sorted({'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    assert run(code).strip() == "[]"


def test_a_missing_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, numpy="2.0")
    runtime, findings = providers.examine_onnxruntime()
    assert runtime == Runtime({})
    (finding,) = findings
    assert finding.status == "fail" and "edgeae[cpu]" in finding.remedy and "edgeae[gpu]" in finding.remedy


@pytest.mark.parametrize(
    ("wheels", "remedy"),
    [
        (
            {"onnxruntime": "1.32.0", "onnxruntime_gpu": "1.31.0"},
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'edgeae[gpu]'",
        ),
        (
            {"onnxruntime": "1.32.0", "onnxruntime_openvino": "1.31.0"},
            "pip uninstall -y onnxruntime onnxruntime-openvino && pip install 'edgeae[cpu]'",
        ),
    ],
)
def test_two_wheels_side_by_side(monkeypatch: pytest.MonkeyPatch, wheels: dict[str, str], remedy: str) -> None:
    install(monkeypatch, numpy="2.0", onnx="1.0", onnxruntime_extensions="0.1", **wheels)
    found = packages.onnxruntime_wheels()
    assert found == {name.replace("_", "-"): version for name, version in wheels.items()}
    finding = find(judge_runtime(Runtime(found, version="1.32.0", providers={CPU: ""})), "wheel")
    assert finding.status == "fail" and finding.remedy.startswith(remedy)


def test_a_gpu_wheel_whose_files_were_overwritten() -> None:
    findings = judge_runtime(Runtime({"onnxruntime-gpu": "1.32.0"}, version="1.32.0", providers={CPU: ""}))
    assert find(findings, CUDA).status == "fail"
    assert find(findings, CUDA).remedy == "pip uninstall -y onnxruntime-gpu && pip install 'edgeae[gpu]'"


def test_an_old_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1", "onnxruntime>=1.19; extra == 'cpu'"])
    finding = find(judge_runtime(Runtime({"onnxruntime": "1.8.1"}, "1.8.1", providers={CPU: ""})), "wheel")
    assert finding.status == "fail" and "1.19" in finding.detail and finding.remedy == "pip install -U 'edgeae[cpu]'"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("libcublasLt.so.12: cannot open shared object file", "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("libcuda.so.1: cannot open shared object file", "install the driver until nvidia-smi lists the GPU"),
        ("CUDA failure 100: no CUDA-capable device is detected", "docker run --gpus all"),
        ("CUDA failure 35: CUDA driver version is insufficient", "update the NVIDIA driver to one for CUDA 12"),
        ("something else", "nvidia-smi"),
    ],
)
def test_a_cuda_provider_that_does_not_start(reason: str, words: str) -> None:
    runtime = Runtime({"onnxruntime-gpu": "1.32.0"}, "1.32.0", cuda="12.8", providers={CUDA: reason, CPU: ""})
    finding = find(judge_runtime(runtime), CUDA)
    assert finding.status == "fail" and finding.detail == reason and words in finding.remedy


def test_only_the_providers_that_edgeae_uses_can_fail() -> None:
    tried = {"TensorrtExecutionProvider": "libnvinfer.so.10: cannot open", CPU: "the process crashed (SIGILL)"}
    findings = judge_runtime(Runtime({"onnxruntime": "1.32.0"}, "1.32.0", providers=tried))
    assert find(findings, "TensorrtExecutionProvider").status == "ok"
    assert find(findings, CPU).status == "fail" and "pip uninstall -y onnxruntime" in find(findings, CPU).remedy


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os.abort()", "the process crashed (SIGABRT)"),
        ("raise ValueError('first\\nsecond')", "ValueError: first"),
        ("import sys; sys.exit(7)", "exit status 7"),
        ("import sys; sys.exit('/a/b/libx.so.12: cannot open shared object file: No such file')", "libx.so.12: cannot"),
        ("import sys; sys.exit('\\x1b[31mCUDA failure 35: too old ; GPU=0\\x1b[m')", "CUDA failure 35: too old"),
        ("print('edgeae-doctor:\"fell back\"')", "exit status 0"),
        ("import time; time.sleep(60)", "did not answer within 1 seconds"),
    ],
)
def test_why_a_process_failed(monkeypatch: pytest.MonkeyPatch, code: str, reason: str) -> None:
    monkeypatch.setattr(providers, "SECONDS", 1.0 if "sleep" in code else 60.0)
    attempt = providers._attempt(code)
    assert attempt.reason.startswith(reason) and "\x1b" not in attempt.reason


def test_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert "no other process" in providers._attempt("pass").reason


GPU = Runtime({"onnxruntime-gpu": "1.32.0"}, "1.32.0", cuda="12.8", providers={CUDA: "", CPU: ""})
BROKEN = Runtime({"onnxruntime-gpu": "1.32.0"}, "1.32.0", cuda="13.0", providers={CUDA: "no", CPU: ""})
CPU_ONLY = Runtime({"onnxruntime": "1.32.0"}, "1.32.0", providers={CPU: ""})
H200 = Driver("570.1", "12.8", ("NVIDIA H200",))


def test_drivers() -> None:
    assert find(judge_cuda(GPU, H200, {}, {}), "driver").status == "ok"
    old = find(judge_cuda(BROKEN, H200, {}, {}), "driver")
    assert old.status == "fail" and "CUDA 13" in old.remedy and "13.0" in old.detail
    assert find(judge_cuda(CPU_ONLY, "no nvidia-smi", {}, {}), "driver").status == "ok"
    absent = find(judge_cuda(GPU, "no nvidia-smi", {}, {}), "driver")
    assert absent.status == "warn" and "pip uninstall -y onnxruntime-gpu" in absent.remedy
    unused = find(judge_cuda(CPU_ONLY, H200, {}, {}), "driver")
    assert unused.status == "warn"
    assert unused.remedy.endswith("pip uninstall -y onnxruntime && pip install 'edgeae[gpu]'")


@pytest.mark.parametrize(
    ("name", "wheels", "libraries", "status", "words"),
    [
        ("cudnn", {"nvidia-cudnn-cu13": "9.8"}, {}, "ok", "nvidia-cudnn-cu13 9.8"),
        ("cudnn", {"nvidia-cudnn-cu12": "9.8"}, {}, "warn", "only for another CUDA than 13"),
        ("cudnn", {}, {"cudnn": "libcudnn.so.9"}, "ok", "on the system"),
        ("cudart", {"nvidia-cuda-runtime": "13.0.1"}, {}, "ok", "13.0.1"),
        ("cudart", {"nvidia-cuda-runtime": "12.9"}, {}, "warn", "another CUDA"),
        ("cudart", {}, {"cudart": "libcudart.so.12"}, "warn", "libcudart.so.12"),
        ("cufft", {"nvidia-cufft": "12.0"}, {}, "ok", "12.0"),
        ("curand", {"nvidia-curand": "10.4"}, {}, "ok", "10.4"),
        ("cublas", {}, {}, "warn", "not found"),
    ],
)
def test_libraries(name: str, wheels: dict[str, str], libraries: dict[str, str], status: str, words: str) -> None:
    finding = find(judge_cuda(BROKEN, H200, wheels, libraries), name)
    assert finding.status == status and words in finding.detail
    assert ("onnxruntime-gpu[cuda,cudnn]" in finding.remedy) is (status == "warn")


def test_libraries_that_nothing_needs_are_no_trouble() -> None:
    findings = judge_cuda(CPU_ONLY, "none", {"nvidia-cudnn-cu12": "9"}, {"cudart": "libcudart.so.12"}, "12.4")
    assert {finding.status for finding in findings} == {"ok"} and "12.4" in find(findings, "toolkit").detail
    assert {find(judge_cuda(GPU, H200, {}, {}), name).status for name in cuda.LIBRARIES} == {"ok"}


@pytest.mark.parametrize(
    ("listed", "found"),
    [
        ("echo 'NVIDIA H200, 570.1'; echo 'NVIDIA H200, 570.1'", Driver("570.1", "12.8", ("NVIDIA H200",) * 2)),
        ("echo 'No devices were found'; exit 6", "nvidia-smi finds no GPU: No devices were found"),
        ("exit 9", "nvidia-smi finds no GPU: exit status 9"),
    ],
)
def test_what_nvidia_smi_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str, found: Driver | str
) -> None:
    if os.name != "posix":
        pytest.skip("needs a shell")
    script = tmp_path / "nvidia-smi"
    script.write_text(f"#!/bin/sh\nif [ $# = 0 ]; then echo '| CUDA Version: 12.8 |'; exit; fi\n{listed}\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert cuda.read_driver() == found


def test_no_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda.read_driver() == "no nvidia-smi, so no NVIDIA driver"
    assert cuda.find_toolkit() == ""


@pytest.mark.parametrize(
    ("text", "name", "features"),
    [
        ("model name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", "Xeon", "AVX2 AVX512F AVX512-VNNI"),
        ("model name\t: Old\nflags\t\t: fpu sse2\n", "Old", ""),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp i8mm sve\nModel\t\t: Pi\n", "Pi", "NEON dotprod i8mm SVE"),
    ],
)  # fmt: skip
def test_processors(text: str, name: str, features: str) -> None:
    assert machine.read_processor(text) == Processor(name, tuple(features.split()))


def test_what_features_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.read_processor("nothing here").features is None
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    judged = machine._judge_processor(Processor(None, None))
    assert [finding.status for finding in judged] == ["ok", "ok"] and "unknown" in judged[1].detail
    assert machine._judge_processor(Processor("Old", ()))[1].status == "warn"
    assert "int8" in machine._judge_processor(Processor("Haswell", ("AVX2", "FMA")))[1].detail
    assert "int8" not in machine._judge_processor(Processor("Xeon", ("AVX2", "AVX512-VNNI")))[1].detail
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine._judge_processor(Processor("Pi", ("NEON",)))[1].status == "ok"


def test_a_mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.name != "posix":
        pytest.skip("needs a shell")
    script = tmp_path / "sysctl"
    lines = ("machdep.cpu.brand_string: Apple M4", "hw.optional.arm.FEAT_DotProd: 1", "hw.optional.arm.FEAT_I8MM: 0")
    script.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert machine._read_apple() == Processor("Apple M4", ("dotprod",))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert machine._read_apple().features is None


def test_a_containers_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.read_quota(tmp_path) is None
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert machine.read_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert machine.read_quota(tmp_path) == 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.read_quota(tmp_path) is None
    for quota, status in ((0.5, "warn"), (1.5, "ok"), (None, "ok")):
        monkeypatch.setattr(machine, "read_quota", lambda quota=quota: quota)
        assert machine._judge_cores().status == status


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    findings = places.examine_places()
    assert {finding.status for finding in findings} == {"ok"}
    assert "not made yet" in find(findings, "cache").detail and str(tmp_path) in find(findings, "current folder").detail
    assert not list(tmp_path.iterdir())
    (tmp_path / "cache" / "edgeae" / "mnist").mkdir(parents=True)
    (tmp_path / "cache" / "edgeae" / "mnist" / "x").write_bytes(bytes(2**21))
    assert "2.0 MiB" in find(places.examine_places(), "cache").detail
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = find(places.examine_places(), "cache")
    assert cache.status == "warn" and "XDG_CACHE_HOME" in cache.remedy


def test_folders_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    findings = places.examine_places()
    assert find(findings, "current folder").status == "warn" and "Permission" in find(findings, "current folder").detail
    assert find(findings, "temporary folder").status == "fail" and "TMPDIR" in find(findings, "temporary folder").remedy


def test_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert find(places.examine_places(), "telemetry").status == "ok"
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    assert find(places.examine_places(), "telemetry").status == "warn"


NEEDS = ["numpy>=1.26", "torch>=2.8; extra == 'train'", 'Pillow>=10; extra == "train"', "pytest>=8; extra == 'dev'"]


def test_packages_for_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: NEEDS)
    assert packages.requirements("train") == {"torch": "2.8", "Pillow": "10"}
    install(monkeypatch, torch="2.13.0+cpu", Pillow="13.0.0")
    assert [finding.status for finding in packages.examine_packages()] == ["ok", "ok"]
    install(monkeypatch, torch="2.13.0", Pillow="9.5")
    old = find(packages.examine_packages(), "Pillow")
    assert old.status == "warn" and old.remedy == "pip install -U 'Pillow>=10'"
    install(monkeypatch, torch="2.13.0")
    assert find(packages.examine_packages(), "Pillow").remedy == "pip install 'edgeae[train]'"
    install(monkeypatch, Pillow="13.0")
    (thin,) = packages.examine_packages()
    assert thin.status == "ok" and "Pillow 13.0" in thin.detail


def test_edgeae_itself_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", unknown)
    (finding,) = packages.examine_packages()
    assert finding.status == "warn" and finding.remedy == "pip install -e ."
