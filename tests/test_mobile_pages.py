"""The code on runtime/mobile's pages: Swift compiled and run over golden bundles, Kotlin compiled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgeae.export.mobile import write_mobile
from tests.test_mobile import PAGES, fixed

BESIDE = Path(__file__).parent / "mobile"


def code(page: str, language: str) -> list[str]:
    """The blocks of code on a page, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (PAGES / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def run(*words: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, words)), cwd=folder, capture_output=True, text=True, timeout=400, check=False)


def built(*words: str | Path, folder: Path) -> None:
    done = run(*words, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a module that stands in for ONNX Runtime's Objective-C one, and how to compile against it."""
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", "nowhere"))
    header, library = root / "include" / "onnxruntime_c_api.h", root / "lib" / "libonnxruntime.so"
    if shutil.which("swiftc") is None or sys.platform != "linux":
        pytest.skip("needs Swift for Linux: swiftc is not installed (Debian 13 has it as swiftlang)")
    if not (header.exists() and library.exists()):
        pytest.skip("needs ONNX Runtime's headers and library: set ONNXRUNTIME_ROOT to an unpacked release")
    folder = tmp_path_factory.mktemp("swift")
    for held in (*header.parent.glob("*.h"), BESIDE / "OnnxRuntimeBindings.swift"):
        shutil.copy(held, folder)
    shutil.copy(library, folder / "libonnxruntime.so.1")
    (folder / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")
    (folder / "module.modulemap").write_text(
        'module COnnxRuntime { header "onnxruntime_c_api.h" link "onnxruntime" export * }'
    )
    module = "OnnxRuntimeBindings"
    options = ["-swift-version", "5", "-I", ".", "-L", ".", "-module-name"]
    made = ["-parse-as-library", "-emit-module", "-emit-library", "-static", "-o", f"lib{module}.a", f"{module}.swift"]
    built("swiftc", *options, module, *made, folder=folder)
    return folder, [*options, "page", f"-l{module}", "-Xlinker", "-rpath", "-Xlinker", str(folder)]


@pytest.mark.parametrize("name", ["table", "dense-uint8-batch1"])
def test_the_swift_pages_code_gives_the_golden_score(name: str, swift: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, options = swift
    phone = write_mobile(fixed(name, tmp_path / "bundle"), tmp_path / "phone").path
    scorer, use, test, accelerated = code("ios.md", "swift")
    (folder / "EdgeaeScorer.swift").write_text(scorer)
    (folder / "EdgeaeScorerTests.swift").write_text(test.replace("@testable import YourApp\n", ""))
    (folder / "main.swift").write_text(
        "import Foundation\nimport OnnxRuntimeBindings\nimport XCTest\n"
        f"func use(_ row: [Float]) throws {{\n{use}}}\n"
        f"func accelerated() throws -> EdgeaeScorer {{\n{accelerated}return scorer\n}}\n"
        "let test = EdgeaeScorerTests.testScoresAreTheGoldenOnes\n"
        'XCTMain([testCase([("testScoresAreTheGoldenOnes", test)])])\n'
    )
    sources = ["main.swift", "EdgeaeScorer.swift", "EdgeaeScorerTests.swift"]
    built("swiftc", *options, "-o", tmp_path / "page", *sources, phone / "EdgeaeModel.swift", folder=folder)

    # on Linux a program's resources are the files beside it
    shutil.copy(phone / "scorer.ort", tmp_path)
    golden = json.loads((phone / "golden.json").read_text("utf-8"))
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    done = run(tmp_path / "page", folder=tmp_path)
    assert done.returncode == 0 and "Executed 1 test, with 0 failures" in done.stdout, done.stdout + done.stderr
    golden["score"] = [2 * golden["score"][0] + 1]
    (tmp_path / "golden.json").write_text(json.dumps(golden))
    done = run(tmp_path / "page", folder=tmp_path)
    assert done.returncode != 0 and "Executed 1 test, with 1 failure" in done.stdout, done.stdout + done.stderr


def test_the_kotlin_pages_code_compiles_against_android(tmp_path: Path) -> None:
    compiler = shutil.which("kotlinc")
    if compiler is None:
        pytest.skip("needs a Kotlin compiler: kotlinc is not installed (Debian has it as kotlin)")
    held = Path(os.environ.get("EDGEAE_ANDROID", "nowhere"))
    jars = [held / f"{name}.jar" for name in ("android", "junit", "onnxruntime")]
    if not all(jar.exists() for jar in jars):
        pytest.skip("needs Android's, JUnit's and ONNX Runtime's classes: .ci/android DIR, then EDGEAE_ANDROID=DIR")
    scorer, use, test, accelerated = code("android.md", "kotlin")[1:]
    (tmp_path / "EdgeaeScorer.kt").write_text(scorer)
    (tmp_path / "EdgeaeScorerTest.kt").write_text(test)
    (tmp_path / "Uses.kt").write_text(
        "import android.content.res.AssetManager\n"
        f"fun use(assets: AssetManager) {{\n{use}}}\n"
        f"fun accelerated(assets: AssetManager): EdgeaeScorer {{\n{accelerated}return scorer\n}}\n"
    )
    # Debian's compiler does not look into its own library for Java 7, where AutoCloseable.use is
    jars += (Path(compiler).resolve().parents[1] / "lib").glob("kotlin-stdlib-jdk7.jar")
    paths = os.pathsep.join(map(str, jars))
    sources = [*sorted(tmp_path.glob("*.kt")), BESIDE / "InstrumentationRegistry.kt"]
    built(compiler, "-no-jdk", "-classpath", paths, "-d", tmp_path / "page.jar", *sources, folder=tmp_path)
    assert (tmp_path / "page.jar").exists()
