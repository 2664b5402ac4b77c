"""`python -m tests.fuzz --hours 8`: fuzz graphs, bundles and latent files in turn, and keep what went wrong."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path

from tests.fuzz.latents import fuzz_latents
from tests.fuzz.run import describe, fuzz, fuzz_bundles


def main() -> int:
    """Fuzz in rounds of a minute each for graphs, bundles and latent files; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("-o", "--out", type=Path, default=Path("fuzz-findings"), help="a folder for what went wrong")
    options = parser.parse_args()
    until = time.monotonic() + options.hours * 3600
    seed, found = options.seed, False
    while (left := until - time.monotonic()) > 0:
        findings = fuzz(seconds=min(60.0, left), seed=seed)
        sys.stdout.write(f"seed {seed}: {dict(findings.verdicts)}, {len(findings.bad)} bad\n")
        for name, what, data in findings.bad:
            found = True
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.onnx"
            path.write_bytes(data)
            sys.stdout.write(f"  {path}: {what}: {describe(data)}\n")
        left = max(1.0, until - time.monotonic())
        opened = fuzz_bundles(seconds=min(60.0, left), seed=seed * 1_000_000, keep=options.out)
        sys.stdout.write(f"seed {seed}, bundles: {dict(opened.verdicts)}, {len(opened.bad)} bad\n")
        for number, what, wrong in opened.bad:
            found = True
            sys.stdout.write(f"  {options.out}/bundle-{number}: {what}: {wrong}\n")
        left = max(1.0, until - time.monotonic())
        read = fuzz_latents(seconds=min(60.0, left), seed=seed)
        sys.stdout.write(f"seed {seed}, latent files: {dict(read.verdicts)}, {len(read.bad)} bad\n")
        for name, what, data in read.bad:
            found = True
            options.out.mkdir(parents=True, exist_ok=True)
            path = options.out / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.eae"
            path.write_bytes(data)
            sys.stdout.write(f"  {path}: {what}\n")
        sys.stdout.flush()
        seed += 1
    return int(found)


if __name__ == "__main__":
    raise SystemExit(main())
