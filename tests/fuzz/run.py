"""The fuzzer: mutate samples, ask the guard, and give what it lets pass to ONNX Runtime in a child process.

The same for whole bundles, in folders and .zip files: mutate one, and let a child process load and run it.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeae.bundle.protobuf import parse_model
from edgeae.errors import BundleError
from tests.fuzz.mutate import mutate_bytes, mutate_structure
from tests.fuzz.opener import Opener
from tests.fuzz.samples import Sample, samples
from tests.fuzz.spoil import mutate_bundle
from tests.fuzz.worker import Worker

# so that what passes needs little memory and time, and more than that is a finding
TIGHT: dict[str, Any] = {"activation": 2**20, "activations": 2**22, "work": 2**26, "constant_work": 2**24}
SLOW = 2.0


@dataclass
class Findings:
    """What a run has seen.

    Attributes:
        verdicts: How often each: refused by the guard, ran, refused by ONNX Runtime.
        bad: Sample, what went wrong, and the bytes that did it.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, bytes]] = field(default_factory=list)


def judge(sample: Sample, data: bytes, worker: Worker, findings: Findings) -> None:
    """Give `data` to the guard and, if it passes, to ONNX Runtime."""
    began = time.process_time()
    try:
        sample.check(data, **TIGHT)
    except BundleError as problem:
        findings.verdicts["guard"] += 1
        if "\n" in str(problem):
            findings.bad.append((sample.name, "a message of several lines", data))
        return
    except Exception as problem:  # whatever else the guard raises is what we look for
        findings.bad.append((sample.name, f"the guard raised {type(problem).__name__}: {problem}", data))
        return
    finally:
        if time.process_time() - began > SLOW:
            findings.bad.append((sample.name, "the guard took too long", data))
    (_, dtype, row), (_, _, target) = sample.source, sample.target
    verdict = worker.run(data, dtype, row, target, sample.batch)
    findings.verdicts[verdict.split()[0].rstrip(":")] += 1
    if not verdict.startswith(("ran", "refused")):
        findings.bad.append((sample.name, verdict, data))


def fuzz(*, seconds: float | None = None, rounds: int | None = None, seed: int = 0) -> Findings:
    """Mutate for `seconds`, or for a fixed number of rounds."""
    rng = random.Random(seed)
    findings = Findings()
    pool = list(samples().values())
    until = None if seconds is None else time.monotonic() + seconds
    done = 0
    with Worker() as worker:
        while (rounds is None or done < rounds) and (until is None or time.monotonic() < until):
            sample = rng.choice(pool)
            data = mutate_structure(sample.data, rng) if rng.random() < 0.7 else mutate_bytes(sample.data, rng)
            judge(sample, data, worker, findings)
            done += 1
    return findings


@dataclass
class BundleFindings:
    """What a run over bundles has seen.

    Attributes:
        verdicts: How often each: refused, ran.
        bad: The seed of the mutation, what was changed, and what went wrong.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[int, str, str]] = field(default_factory=list)


def fuzz_bundles(
    *, seconds: float | None = None, rounds: int | None = None, seed: int = 0, keep: Path | None = None
) -> BundleFindings:
    """Mutate bundles for `seconds`, or for a fixed number of rounds; each round has a seed of its own.

    Args:
        keep: A folder for bundles that went wrong.
    """
    findings = BundleFindings()
    until = None if seconds is None else time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, Opener() as opener:
        done = 0
        while (rounds is None or done < rounds) and (until is None or time.monotonic() < until):
            what, path = mutate_bundle(random.Random(seed), Path(folder) / "bundle")
            outcome = opener.open(path)
            findings.verdicts[outcome.verdict.split()[0]] += 1
            wrong = outcome.verdict if not outcome.good else ""
            if outcome.seconds > SLOW:
                wrong = f"slow, {outcome.seconds:.1f} s: {outcome.verdict}"
            if wrong:
                findings.bad.append((seed, what, wrong))
            if wrong and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                kept = keep / f"bundle-{seed}{path.suffix}"
                shutil.copytree(path, kept, dirs_exist_ok=True) if path.is_dir() else shutil.copyfile(path, kept)
            seed, done = seed + 1, done + 1
    return findings


def describe(data: bytes) -> str:
    """Return a finding's nodes in a few words, or what the parser says to it."""
    try:
        nodes = parse_model(data)["graph"]["nodes"]
    except Exception as problem:  # a finding may be anything
        return f"{type(problem).__name__}: {problem}"
    return "; ".join(f"{node.get('op')}({', '.join(node['inputs'])})" for node in nodes)
