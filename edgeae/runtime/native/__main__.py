"""`python -m edgeae.runtime.native build`: compile the operator library."""

from __future__ import annotations

import argparse
import sys

from edgeae.errors import EdgeaeError
from edgeae.runtime.native.build import build_library
from edgeae.runtime.native.library import COMMAND


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog=COMMAND.removesuffix(" build"), description="The native operator library.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="compile it into the cache folder, where edgeae.load finds it")
    build.add_argument("--onnxruntime-include", metavar="DIR", help="ONNX Runtime's headers; else ONNXRUNTIME_ROOT")
    build.add_argument("--compiler", metavar="COMMAND", help="GCC or clang for C++17; else CXX, else c++")
    given = parser.parse_args(arguments)
    try:
        sys.stdout.write(f"{build_library(given.onnxruntime_include, compiler=given.compiler)}\n")
    except EdgeaeError as problem:
        sys.stderr.write(f"Error: {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
