"""Latent files (.eae) that are not what they seem: bytes changed, and checksums put right again."""

from __future__ import annotations

import io
import random
import struct
import time
import tracemalloc
import zlib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

import edgeae
from edgeae.errors import InputError, IntegrityError
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.worker import ROOT

SLOW = 2.0
MEMORY = 200 * 2**20


def split(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]]]:
    """Return the header of a sound file, and head and payload of each chunk."""
    at, chunks = 112, []
    while data[at : at + 4] == b"CHNK":
        size = struct.unpack_from("<I", data, at + 20)[0]
        chunks.append((data[at : at + 40], data[at + 40 : at + 40 + size]))
        at += 40 + size
    return data[:112], chunks


def join(header: bytes, chunks: list[tuple[bytes, bytes]]) -> bytes:
    """Return a file with all its checksums, lengths and its index put right."""
    header = header[:108] + struct.pack("<I", zlib.crc32(header[:108]))
    file_id, parts, entries, rows, at = header[56:72], [header], [], 0, 112
    for head, payload in chunks:
        _, number, first, count, _, unknown, _, decoded = struct.unpack("<4sIQIIIII", head[:36])
        made = struct.pack(
            "<4sIQIIIII", b"CHNK", number, first, count, len(payload), unknown, zlib.crc32(payload), decoded
        )
        parts += [made, struct.pack("<I", zlib.crc32(file_id + made)), payload]
        entries.append((at, first))
        rows, at = rows + count, at + 40 + len(payload)
    index = struct.pack("<4sI", b"INDX", len(entries)) + b"".join(struct.pack("<QQ", *entry) for entry in entries)
    end = struct.pack("<QQII", rows % 2**64, at, len(entries), zlib.crc32(file_id + index))
    return b"".join([*parts, index, end, struct.pack("<I", zlib.crc32(file_id + end)), b"\x89EAE.end"])


def mutate_file(data: bytes, rng: random.Random) -> bytes:
    """Change something in a sound file: any bytes, or a header, a head or a payload, whose checksums are put right."""
    header, chunks = split(data)
    if rng.random() < 0.2 or not chunks:
        return mutate_bytes(data, rng)
    place = rng.randrange(len(chunks))
    head, payload = chunks[place]
    match rng.randrange(10):
        case 0:
            header = _same_length(header, rng)
        case 1:
            head = _same_length(head, rng)
        case 2:
            chunks.insert(place, chunks[rng.randrange(len(chunks))])
        case 3:  # a head that says more rows than there are
            rows = rng.choice((0, 1, 2, 3, 5, 100, 2**16, 2**20, 2**24, 2**32 - 1))
            head = head[:16] + struct.pack("<I", rows) + head[20:]
        case _:
            for _ in range(rng.choice((1, 1, 2, 4))):
                payload = _structured(payload, rng) if rng.random() < 0.5 else mutate_bytes(payload, rng)
    chunks[place] = (head, payload)
    return join(header, chunks)


def _same_length(data: bytes, rng: random.Random) -> bytes:
    spoilt = mutate_bytes(data, rng)[: len(data)]
    return spoilt + data[len(spoilt) :]


def _structured(payload: bytes, rng: random.Random) -> bytes:
    """Put a telling number where one may stand."""
    if len(payload) < 4:
        return payload
    number = rng.choice((0, 1, 2, 4, 8, 255, 256, 2**16, 2**24, 2**31, 2**32 - 1))
    at = rng.randrange(len(payload) - 3)
    return payload[:at] + struct.pack("<I", number) + payload[at + 4 :]


@cache
def samples() -> tuple[tuple[str, bytes, edgeae.Autoencoder], ...]:
    """Return sound files of every kind, and the models that wrote them."""
    from edgeae.codec import LatentWriter

    made = []
    rng = np.random.default_rng(0)
    for name, dtype in (("table", np.float32), ("dense", np.uint8)):
        model = edgeae.load(ROOT / "export" / "golden" / name, device="cpu", options={"workers": 1})
        golden = model.bundle.golden().x
        rows = np.clip(golden[rng.integers(0, len(golden), 12)] + rng.normal(0, 0.2, (12, *model.input_shape)), 0, 255)
        kinds: list[dict[str, Any]] = [{"dtype": each} for each in ("float32", "float16", "int8", "int3")]
        for settings in (*kinds, {"max_error": 1.0}, {"target_psnr": 40.0}, {"lossless": True}):
            if "lossless" in settings and dtype == np.float32:
                continue
            buffer = io.BytesIO()
            with LatentWriter(buffer, model, **settings) as writer:
                for start in range(0, 12, 5):
                    writer.write(rows[start : start + 5].astype(dtype))
                    writer.flush()
            made.append((f"{name}-{'-'.join(map(str, next(iter(settings.items()))))}", buffer.getvalue(), model))
    return tuple(made)


@dataclass
class LatentFindings:
    """What a run over latent files has seen.

    Attributes:
        verdicts: How often each: refused, read.
        bad: Sample, what went wrong, and the bytes that did it.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, bytes]] = field(default_factory=list)


def fuzz_latents(*, seconds: float | None = None, rounds: int | None = None, seed: int = 0) -> LatentFindings:
    """Mutate latent files for `seconds`, or for a fixed number of rounds, and read each in every way."""
    rng, findings, done = random.Random(seed), LatentFindings(), 0
    until = None if seconds is None else time.monotonic() + seconds
    while (rounds is None or done < rounds) and (until is None or time.monotonic() < until):
        name, data, model = rng.choice(samples())
        spoilt = mutate_file(data, rng)
        verdict = judge_file(spoilt, model)
        findings.verdicts[verdict.split()[0]] += 1
        if not verdict.startswith(("read", "refused")):
            findings.bad.append((name, verdict, spoilt))
        done += 1
    return findings


def judge_file(data: bytes, model: edgeae.Autoencoder) -> str:
    """Read a file by its index, as a stream and with recover: "read", "refused", or what must not happen."""
    began, verdict = time.process_time(), "refused"
    tracemalloc.start()
    try:
        for recover in (False, True):
            verdict = _read(data, model, recover)
    except (InputError, IntegrityError) as problem:
        text = str(problem)
        verdict = "refused" if text.isprintable() and len(text) < 1000 else f"unreadable message {text!r}"
    except BaseException as problem:  # whatever else comes out is what we look for
        verdict = f"raised {type(problem).__name__}: {problem}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > MEMORY:
        return f"memory {peak / 2**20:.0f} MiB"
    if time.process_time() - began > SLOW:
        return f"slow {time.process_time() - began:.1f} s: {verdict}"
    return verdict


def _read(data: bytes, model: edgeae.Autoencoder, recover: bool) -> str:
    from edgeae.codec import LatentReader

    with LatentReader(io.BytesIO(data), model, recover=recover, drift="warn") as reader:
        count = sum(len(block) for block in reader)
        if count != len(reader):
            return f"count: {count} rows instead of {len(reader)}"
        reader.unknown_rows()
    return "read"
