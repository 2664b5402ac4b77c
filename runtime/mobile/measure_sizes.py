"""Measure what each operator's kernels add to a reduced build of ONNX Runtime: makes edgeae/export/kernel_sizes.json.

The build must have all kernels compiled and, but for one operator, none registered; it needs Ninja and lld. In ONNX
Runtime's sources:

    echo 'ai.onnx;18;Identity' > one.config
    ./build.sh --config MinSizeRel --minimal_build --disable_ml_ops --disable_exceptions --skip_tests \\
      --include_ops_by_config one.config --build_shared_lib --cmake_generator Ninja \\
      --cmake_extra_defines CMAKE_SHARED_LINKER_FLAGS=-fuse-ld=lld
    python measure_sizes.py . build/Linux/MinSizeRel kernel_sizes.json pump-mobile/required_operators.config

It links libonnxruntime.so once per operator, with its kernels as roots of the linker's garbage collection (`-u`), which
keeps what their registration would keep, and reads from the linker's map which sections are there that the library
without operators has not. Sections that one operator alone needs are its own; the others are summed up by the set of
operators that need them. Printed is, for each configuration, what its operators weigh when really linked together,
and the sum that edgeae makes of these figures.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from edgeae.export.mobile import read_operators
from edgeae.export.mobile_sizes import Kernels, estimate_size

OPSET = 18
SMALLEST = 1000  # bytes of a shared part; what is smaller counts as each operator's own
KERNEL = re.compile(
    r"^_ZN\S*21BuildKernelCreateInfoI\S*?(kCpuExecutionProvider_(\w+?)_(kOnnxDomain|kMSDomain)_ver(\d+)(?:_(\d+))?"
    r"(?:_[A-Za-z]\w*)?)EEENS_16KernelCreateInfoEv$",
    re.MULTILINE,
)
REGISTERED = re.compile(r"BuildKernelCreateInfo<\s*ONNX_\w+_CLASS_NAME\(([^()]*)\)")
SECTION = re.compile(r"^ *[0-9a-f]+ +[0-9a-f]+ +([0-9a-f]+) +\d+ {9}(\S.*:\(.*\))$", re.MULTILINE)


def registrations(sources: Path, build: Path) -> dict[str, list[str]]:
    """Return the symbols that register kernels, by operator: those that opset 18 takes, for all types.

    There are kernels that no table of the sources registers; they are not in it.
    """
    registered = set()
    for table in ("core/providers/cpu/cpu_execution_provider.cc", "contrib_ops/cpu/cpu_contrib_kernels.cc"):
        for arguments in REGISTERED.findall((sources / "onnxruntime" / table).read_text("utf-8")):
            provider, domain, *versions_and_types, name = re.split(r"\s*,\s*", arguments.strip())
            registered.add(f"{provider}_{name}_{domain}_ver{'_'.join(versions_and_types)}")
    listing = output("llvm-nm", "--defined-only", "--format=just-symbols", str(build / "libonnxruntime_providers.a"))
    found: dict[str, list[str]] = {}
    for match in KERNEL.finditer(listing):
        kernel, name, domain, first, last = match.groups()
        if kernel in registered and (domain == "kMSDomain" or int(first) <= OPSET <= int(last or OPSET)):
            found.setdefault(name if domain == "kOnnxDomain" else f"com.microsoft:{name}", []).append(match[0])
    return found


def link_command(build: Path) -> str:
    """Return the command by which the build links its shared library, with OUTPUT and FLAGS to be filled in."""
    commands = output("ninja", "-C", str(build), "-t", "commands", "libonnxruntime.so").splitlines()
    (link,) = (line for line in commands if re.search(r" -o libonnxruntime\.so\S*", line))
    return re.sub(r" -o libonnxruntime\.so\S*", " -o OUTPUT -s -Wl,--gc-sections @FLAGS", link)


def linked(build: Path, command: str, roots: Iterable[str]) -> tuple[int, Counter[str]]:
    """Link with these symbols kept; return the bytes of code and data, and those of each section of each object."""
    with tempfile.TemporaryDirectory() as scratch:
        library, flags, listing = (Path(scratch) / name for name in ("library.so", "flags", "map"))
        flags.write_text("".join(f"-Wl,-u,{root}\n" for root in roots) + f"-Wl,-Map={listing}\n")
        words = command.replace("OUTPUT", str(library)).replace("FLAGS", str(flags))
        subprocess.run(words, shell=True, cwd=build, check=True)
        text, data, *_ = output("llvm-size", str(library)).splitlines()[1].split()
        sections: Counter[str] = Counter()
        for size, name in SECTION.findall(listing.read_text()):
            sections[name] += int(size, 16)
        return int(text) + int(data), sections


def output(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def share_out(added: dict[str, Counter[str]]) -> tuple[dict[str, int], list[tuple[int, list[str]]]]:
    """Return the bytes that each operator adds alone, and those that sets of operators share."""
    users: dict[str, list[str]] = {}
    for name, sections in added.items():
        for section in sections:
            users.setdefault(section, []).append(name)
    parts: Counter[tuple[str, ...]] = Counter()
    for section, names in users.items():
        parts[tuple(sorted(names))] += max(added[name][section] for name in names)
    own = dict.fromkeys(sorted(added), 0)
    shared = []
    for sharing, size in parts.most_common():
        if len(sharing) > 1 and size >= SMALLEST:
            shared.append((size, list(sharing)))
        else:
            own.update({name: own[name] + size for name in sharing})
    return own, shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, help="ONNX Runtime's sources")
    parser.add_argument("build", type=Path, help="the build folder, with build.ninja")
    parser.add_argument("out", type=Path, help="kernel_sizes.json to write")
    parser.add_argument("configurations", type=Path, nargs="*", help="required_operators.config files to compare with")
    given = parser.parse_args()
    command, symbols = link_command(given.build), registrations(given.sources, given.build)
    base, without = linked(given.build, command, [])
    added = {name: linked(given.build, command, roots)[1] - without for name, roots in symbols.items()}
    own, shared = share_out(added)
    rows = ",\n".join(json.dumps(part) for part in shared)
    given.out.write_text(
        f'{{\n"base": {base},\n"own": {json.dumps(own, indent=0)},\n"shared": [\n{rows}\n]\n}}\n', "utf-8"
    )
    kernels = Kernels.read(given.out)
    for configuration in given.configurations:
        size = estimate_size(read_operators(configuration.read_text("utf-8")), kernels)
        roots = [symbol for name in size.own for symbol in symbols[name]]
        whole = linked(given.build, command, roots)[0]
        ratio = f"{size.total / whole - 1:+.1%}"
        sys.stdout.write(f"{configuration}: {whole} linked, {size.total} estimated, {ratio}; unknown: {size.unknown}\n")


if __name__ == "__main__":
    main()
