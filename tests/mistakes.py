"""Bundles with one mistake each, and what must be said of it: one table for every language that reads bundles.

A mistake is a change of the bytes of a good bundle of rows of 4 and latents of 4; beside it stands a part of the words
that refuse it. Python is held against these words, the other languages against Python's.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.fuzz.spoil import pack

ENTRY, LOCAL, END = b"PK\1\2", b"PK\3\4", b"PK\5\6"


# --- files --------------------------------------------------------------------------------------------------------


def sparse(path: Path) -> None:
    """Make a file of a terabyte that takes no room."""
    path.touch()
    os.truncate(path, 2**40)


FILES: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a pipe": (lambda path: os.mkfifo(path), "is not a regular file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "is a link"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is a link"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "is a link"),
    "a folder": (lambda path: path.mkdir(), "is not a regular file"),
    "a huge sparse file": (sparse, "bytes"),
    "nothing": (lambda path: None, "missing"),
}  # fmt: skip


# --- manifests ----------------------------------------------------------------------------------------------------


def both(change: Callable[[bytes], bytes], other: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: other(change(data))


def put(text: str, *path: str) -> Callable[[bytes], bytes]:
    """Return a change that writes `text` in the place of a value of the manifest."""

    def change(data: bytes) -> bytes:
        plain = json.loads(data)
        holder = plain
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = "HERE"
        return json.dumps(plain).replace('"HERE"', text).encode()

    return change


def threshold(text: str) -> Callable[[bytes], bytes]:
    """Return a change that writes `text` for the threshold."""
    return put(text, "precisions", "fp32", "threshold", "value")


def with_name(text: str) -> Callable[[bytes], bytes]:
    """Return a change that writes `text` for the name."""
    return lambda data: json.dumps({**json.loads(data), "name": "HERE"}).replace('"HERE"', text).encode()


def with_key(text: str) -> Callable[[bytes], bytes]:
    """Return a change that adds `text` to the manifest's keys."""
    return lambda data: data.rstrip().removesuffix(b"}") + f", {text}}}".encode()


def _with(data: bytes, holder: str, key: str, source: list[str]) -> dict[str, Any]:
    """Return the manifest with a copy of what stands at `source` as a key of one of its objects."""
    plain = json.loads(data)
    found = plain
    for step in source:
        found = found[step]
    plain[holder][key] = copy.deepcopy(found)
    return dict(plain)


def _interval(text: str) -> Callable[[bytes], bytes]:
    return put(text, "precisions", "fp32", "threshold", "interval")


MANIFESTS: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "NaN": (threshold("NaN"), "NaN is not allowed"),
    "infinity": (threshold("-Infinity"), "-Infinity is not allowed"),
    "1e999": (threshold("1e999"), "beyond float64"),
    "beyond float32": (threshold("1e300"), "not a float32 value"),
    "a number of 400 digits": (threshold("1" * 400), "expected a finite number"),
    "a number of 5,000 digits": (threshold("1" * 5000), "not valid JSON"),
    "100,000 deep": (lambda data: b"[" * 100_000 + b"]" * 100_000, "nested deeper than"),
    "objects 100,000 deep": (lambda data: b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper than"),
    "deep behind a string of brackets": (
        with_name('"' + "]" * 100_000 + '", "x": ' + "[" * 100_000 + "]" * 100_000), "nested deeper than"),
    "a million lists": (lambda data: b"[" + b"[]," * 1_000_000 + b"[]]", "more than 65,536 lists"),
    "a million keys": (
        lambda data: b"{" + b",".join(b'"%d":0' % number for number in range(700_000)) + b"}", "more than 65,536"),
    "two million strings": (lambda data: b"[" + b'"",' * 2_000_000 + b'""]', "more than 1,048,576 strings"),
    "nine megabytes": (lambda data: data + b" " * 9 * 2**20, "more than the limit"),
    "a key twice": (with_key('"name": "x"'), "the key 'name' stands there twice"),
    "an unknown key": (with_key('"surprise": 1'), "unknown key 'surprise'"),
    "an unknown key of a megabyte": (with_key(f'"{"k" * 10**6}": 1'), "unknown key 'kkk"),
    "an empty key": (with_key('"": 1'), "unknown key ''"),
    "a key three times": (with_key('"b": 1, "a": 1, "a": 2, "a": 3, "b": 2'), "the key 'a' stands there twice"),
    "a key with quotes": (with_key(r'"it\u0027s \"so\"": 1'), "unknown key"),
    "a key of a terminal": (with_key(r'"\u001b[31m\u00e9": 1'), "unknown key"),
    "a key in a map": (lambda data: data.replace(b'"producer": {', b'"producer": {"a\\u0000": "x", '), "a key: "),
    "not UTF-8": (lambda data: data.replace(b"tiny", b"t\xffny"), "not UTF-8"),
    "UTF-16": (lambda data: data.decode().encode("utf-16"), "not UTF-8"),
    "UTF-8 that is too long": (lambda data: data.replace(b"tiny", b"t\xc0\xafny"), "not UTF-8"),
    "UTF-8 of half a character": (lambda data: data.replace(b"tiny", b"t\xed\xa0\x80ny"), "not UTF-8"),
    "UTF-8 that is cut off": (lambda data: data + b"\xe2\x82", "not UTF-8"),
    "a byte order mark": (lambda data: b"\xef\xbb\xbf" + data, "not valid JSON"),
    "half a character": (with_name(r'"\ud800"'), "half characters"),
    "the other half": (with_name(r'"a\udc00b"'), "half characters"),
    "a rubout": (with_name('"\x7f"'), "control characters"),
    "a control character of Latin-1": (with_name(r'"\u0085\u00e9"'), "control characters"),
    "a long text of the terminal": (with_name('"' + r"\u001b\u2028" * 40 + '"'), "control characters"),
    "a list for a name": (with_name(r'["it\u0027s", {"a": [1, 2.50, 1E5, -0, true, null]}, "é"]'), "expected str, got"),
    "a long list for a name": (with_name("[" + "123456789, " * 40 + "1]"), "expected str, got"),
    "colours of the terminal": (with_name(r'"\u001b[31m"'), "control characters"),
    "a whole number with a point": (put("4.0", "latent_dim"), "got 4.0"),
    "a whole number with an exponent": (
        put("4e0", "latent_dim"), "expected a whole number, got 4.0"),
    "a whole number of 65 bits": (
        put("18446744073709551616", "latent_dim"), "of 64 bits"),
    "a whole number beyond a double's": (
        put("9007199254740993", "latent_dim"), "9007199254740993 is out"),
    "a version of a hundred digits": (
        put("1" + "0" * 99, "format_version"), "is newer than"),
    "version 0": (put("0", "format_version"), "from 1, got 0"),
    "version 1.0": (put("1.0", "format_version"), "from 1, got 1.0"),
    "version true": (put("true", "format_version"), "from 1, got True"),
    "nothing": (lambda data: b"", "not valid JSON"),
    "a comma too many": (lambda data: data.rstrip().removesuffix(b"}") + b",}", "not valid JSON"),
    "something behind": (lambda data: data + b"{}", "not valid JSON"),
    "a zero in front": (put("04", "latent_dim"), "not valid JSON"),
    "a line break in a text": (with_name('"a\nb"'), "not valid JSON"),
    "an unknown escape": (with_name(r'"\x41"'), "not valid JSON"),
    "a list": (lambda data: b"[]", "not an edgeae manifest"),
    "a newer version": (
        lambda data: data.replace(b'"format_version": 1,', b'"format_version": 7, "new": [],'), "upgrade with: pip"),
    "rows of a gigabyte": (put("[268435456]", "input", "shape"), "input.shape"),
    "a file called twice": (lambda data: data.replace(b"decoder.onnx", b"Encoder.onnx"), "twice"),
    "a negative size": (lambda data: data.replace(b'"size": ', b'"size": -', 1), "size -"),
    "a digest that is none": (lambda data: data.replace(b'"sha256": "', b'"sha256": "/', 1), "is not one"),
    "a shift beyond float32": (put("[1e60]", "normalisation", "shift"), "within float32"),
    "a scale below float32": (put("[1e-60]", "normalisation", "scale"), "positive"),
    "no shift": (put("[]", "normalisation", "shift"), "0 shifts and 1 scales"),
    "two shifts": (put("[0.5, 1]", "normalisation", "shift"), "rows of shape (4,) (vector)"),
    "a scale of zero": (put("[0]", "normalisation", "scale"), "positive"),
    "a minimum beyond float32": (
        put("-4e38", "input", "minimum"), "within float32"),
    "a variance of zero": (put("0", "score", "decoder_variance"), "positive"),
    "a batch of zero": (put("0", "batch"), "batch 0 is out of bounds"),
    "a batch of millions": (put("1048577", "batch"), "batch 1048577 is out"),
    "another layout": (put('"CHW"', "input", "layout"), "does not fit the layout"),
    "four axes": (put("[4, 1, 1, 1]", "input", "shape"), "has 4 axes"),
    "no axis": (put("[]", "input", "shape"), "has 0 axes"),
    "an axis of nothing": (put("[0]", "input", "shape"), "input.shape [0] is out"),
    "an image beyond 2^24": (
        both(put("[65536, 257]", "input", "shape"), put('"HW"', "input", "layout")),
        "more than 16,777,216 values"),
    "three names": (
        put('["a", "b", "c"]', "input", "feature_names"),
        "3 names for rows of shape [4]"),
    "a precision of its own": (
        lambda data: json.dumps(_with(data, "precisions", "int4", ["precisions", "fp32"])).encode(),
        "unknown precision 'int4'"),
    "no precision": (put("{}", "precisions"), "fp32 is missing"),
    "an interval of one": (_interval("[0.5]"), "two ascending numbers"),
    "an interval upside down": (_interval("[0.5, 0.25]"), "two ascending numbers"),
    "an interval beyond 1": (_interval("[0.5, 1.5]"), "two ascending numbers"),
    "a size beyond 2^31": (put("2147483649", "precisions", "fp32", "golden", "size"), "2147483649"),
    "another tensor": (lambda data: data.replace(b'"z": {', b'"zz": {', 1), "tolerance: need z, x_hat, score"),
    "another variant": (put('"sparse"', "variant"), "its metadata says edgeae.variant = 'dense', the manifest says"),
    "a variant in two lines": (put(r'"it\u0027s\nso"', "variant"), 'the manifest says "it\'s\\nso"'),
    "another score": (put('"mae"', "score", "kind"), "edgeae.score = 'mse', the manifest says 'mae'"),
    "another threshold": (threshold("0.25"), "the manifest says 0.25"),
    "a threshold of millions": (threshold("100000002004087734272"), "1.0000000200408773e+20"),
    "names of its own": (put('["a", "b\\n", "é", "d"]', "input", "feature_names"), "the manifest says ('a', 'b"),
    "no tolerance": (lambda data: data.replace(b'"rtol": ', b'"rtol": -', 1), "tolerance"),
}  # fmt: skip
PATHS = (
    "../encoder.onnx", "/etc/passwd", "a/../../b", "C:\\x", "c:x", "a//b", "./encoder.onnx", "", "a\nb", "a/b/c/d",
    "x" * 300, "é", "..", "con.", "a b", "~/x",
)  # fmt: skip


# --- arrays -------------------------------------------------------------------------------------------------------


def npy(descr: str, shape: str, data: bytes = bytes(64), version: int = 1) -> bytes:
    """Return a .npy file with a header that may claim anything."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header.encode() + data


def arrays(**changes: bytes) -> bytes:
    """Return golden rows for rows of 4 in which some members are other bytes."""
    good = {"x": npy("'<f4'", "(4, 4)"), "z": npy("'<f4'", "(4, 4)"), "x_hat": npy("'<f4'", "(4, 4)")}
    good |= {"score": npy("'<f4'", "(4,)", bytes(16))}
    return pack({f"{name}.npy": data for name, data in {**good, **changes}.items()})


def deflated(change: Callable[[bytes], bytes]) -> bytes:
    """Return golden rows of which the first member's packed bytes were changed, and nothing else."""
    data = arrays()
    at = data.index(b"PK\3\4")
    (packed,) = struct.unpack_from("<I", data, at + 18)
    start = at + 30 + struct.unpack_from("<H", data, at + 26)[0]
    spoilt = change(data[start : start + packed])
    assert len(spoilt) == packed
    return data[:start] + spoilt + data[start + packed :]


def behind_a_stream() -> bytes:
    """Return golden rows in which four bytes stand behind the end of a member's stream, and count as the member's."""
    data = bytearray(pack({"x.npy": npy("'<f4'", "(4, 4)")}))
    for mark, place in ((LOCAL, 18), (ENTRY, 20)):
        at = data.index(mark) + place
        (packed,) = struct.unpack_from("<I", data, at)
        struct.pack_into("<I", data, at, packed + 4)
    start = data.index(ENTRY)
    struct.pack_into("<I", data, data.index(END) + 16, start + 4)
    return bytes(data[:start] + b"junk" + data[start:])


ARRAYS: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "objects that a pickle makes": (lambda: arrays(x=npy("'|O'", "(1,)", b"cos\nsystem\n(S'x'\ntR.")), "plain little"),
    "a shape of terabytes": (lambda: arrays(x=npy("'<f4'", "(1099511627776,)")), "plain little"),
    "a shape that overflows": (lambda: arrays(x=npy("'<f4'", "(4294967296, 4294967296, 2)")), "that it declares"),
    "nothing but zeros": (lambda: arrays(x=npy("'<f4'", "(50000000,)", bytes(200_000_000))), "more than the"),
    "a structured type": (lambda: arrays(x=npy("[('a', '<f4')]", "(4, 4)")), "plain little-endian"),
    "big-endian numbers": (lambda: arrays(x=npy("'>f4'", "(4, 4)")), "plain little-endian"),
    "a header of code": (lambda: arrays(x=npy("__import__('os')", "(4, 4)")), "plain little-endian"),
    "a deep header": (lambda: arrays(x=npy("(" * 9000, "(4, 4)")), "plain little-endian"),
    "a header beyond the file": (lambda: arrays(x=npy("'<f4'", "(4, 4)")[:40]), "plain little-endian"),
    "another version": (lambda: arrays(x=npy("'<f4'", "(4, 4)", version=9)), "plain little-endian"),
    "too few numbers": (lambda: arrays(x=npy("'<f4'", "(4, 4)", bytes(60))), "that it declares"),
    "half a number": (lambda: arrays(x=npy("'<f4'", "(4, 4)", bytes(63))), "that it declares"),
    "float64": (lambda: arrays(x=npy("'<f8'", "(4, 2)")), "expected float32"),
    "a number alone": (lambda: arrays(x=npy("'<f4'", "()", bytes(4))), "x is float32 ()"),
    "no rows": (lambda: arrays(score=npy("'<f4'", "(0,)", b"")), "0 rows"),
    "a thousand rows": (lambda: arrays(score=npy("'<f4'", "(1000,)", bytes(4000))), "1000 rows"),
    "another array": (lambda: arrays(extra=npy("'<f4'", "(4,)", bytes(16))), "extra"),
    "a file that is no array": (lambda: pack({"readme": b"x"}), "no array"),
    "a block of no kind": (lambda: deflated(lambda data: b"\x07" + data[1:]), "that it declares"),
    "a stored block of another length": (lambda: deflated(lambda data: b"\x01\5\0\5\0" + data[5:]), "that it declares"),
    "a stream that ends early": (lambda: deflated(lambda data: b"\x03\0" + data[2:]), "that it declares"),
    "a stream without end": (lambda: deflated(lambda data: data[:-2] + b"\0\0"), "that it declares"),
    "something behind a stream": (lambda: behind_a_stream(), "that it declares"),
    "codes beyond the limit": (lambda: deflated(lambda data: b"\xfd\xff" + data[2:]), "that it declares"),
    "a distance too far": (lambda: deflated(lambda data: b"\x4b\x04\x62" + data[3:]), "'x.npy'"),
    "ten sides": (lambda: arrays(x=npy("'<f4'", "(" + "1, " * 9 + "16)")), "plain little-endian"),
    "a side of eleven digits": (lambda: arrays(x=npy("'<f4'", "(00000000004, 4)")), "plain little-endian"),
    "a comma alone": (lambda: arrays(x=npy("'<f4'", "(,)")), "plain little-endian"),
    "two spaces": (lambda: arrays(x=npy("'<f4'", "(4,  4)")), "plain little-endian"),
    "a float of a byte": (lambda: arrays(x=npy("'<f1'", "(4, 4)")), "that it declares"),
    "numbers of truth": (lambda: arrays(x=npy("'|b1'", "(4, 4)", bytes(16))), "x is bool (4, 4)"),
    "half floats": (lambda: arrays(x=npy("'<f2'", "(4, 4)", bytes(32))), "x is float16 (4, 4)"),
    "wrong numbers": (lambda: arrays(), "self-test failed"),
    "a member called twice": (lambda: arrays(X=npy("'<f4'", "(4, 4)")), "holds 'X.npy' twice"),
    "a member in a folder": (lambda: pack({"a/x.npy": b"x"}), "no array"),
    "a member of another system": (lambda: pack({"C:\\x.npy": b"x"}), "not a plain relative path"),
    "a member of half a character": (
        lambda: both(record(LOCAL, 30, b"\xff"), record(ENTRY, 46, b"\xff"))(pack({"x": b"x"})),
        "not a plain relative path"),
    "text": (lambda: b"not an archive", "not a readable .zip"),
    "a single .npy": (lambda: npy("'<f4'", "(4, 4)"), "not a readable .zip"),
}  # fmt: skip


# --- archives -----------------------------------------------------------------------------------------------------


def record(mark: bytes, place: int, value: bytes, which: int = 0) -> Callable[[bytes], bytes]:
    """Return a change of the bytes from `place` of a record of a .zip file."""

    def change(data: bytes) -> bytes:
        at = -1
        for _ in range(which + 1):
            at = data.index(mark, at + 1)
        return data[: at + place] + value + data[at + place + len(value) :]

    return change


def overlapping(data: bytes) -> bytes:
    """Let the second entry point into the first, as archives that unpack to petabytes do."""
    entry = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", entry + 1)
    return data[: second + 42] + data[entry + 42 : entry + 46] + data[second + 46 :]


ZIPS: Mapping[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda data: data[:-1], "cut off"),
    "something behind its end": (lambda data: data + b"x", "behind its end"),
    "a comment": (both(record(END, 20, b"\5\0"), lambda data: data + b"hello"), "comment"),
    "something in front": (lambda data: data[:2] + b"x" * 50 + data, "data in front"),
    "several disks": (record(END, 4, b"\1\0"), "several parts"),
    "65,535 entries": (record(END, 8, b"\xff\xff\xff\xff"), "65535 entries"),
    "more entries than there are": (record(END, 8, b"\x20\0\x20\0"), "cut off"),
    "fewer entries than there are": (record(END, 8, b"\2\0\2\0"), "more than its entries"),
    "an encrypted entry": (record(ENTRY, 8, b"\1\0"), "encrypted"),
    "an entry encrypted in its place": (record(LOCAL, 6, b"\1\0"), "encrypted"),
    "another method": (record(ENTRY, 10, b"\x0c\0"), "other than deflate"),
    "another method in its place": (record(LOCAL, 8, b"\0\0"), "another in its place"),
    "another name in its place": (record(LOCAL, 30, b"M"), "another in its place"),
    "another size in its place": (record(LOCAL, 22, b"\0\1\2"), "another in its place"),
    "an entry that starts beyond the end": (record(ENTRY, 42, b"\0\0\0\x7f"), "beyond the archive"),
    "an entry that reaches beyond the end": (
        both(record(ENTRY, 20, b"\xff\xff\0\0"), record(LOCAL, 18, b"\xff\xff\0\0")), "beyond the archive"),
    "entries that share bytes": (overlapping, "another in its place"),
    "a link": (both(record(ENTRY, 38, b"\0\0\xff\xa1"), record(ENTRY, 4, b"\x14\3")), "link or a device"),
    "a smaller size than there is": (
        both(record(ENTRY, 24, b"\x20\0\0\0"), record(LOCAL, 22, b"\x20\0\0\0")), "that it declares"),
    "a larger size than there is": (
        both(record(ENTRY, 24, b"\xff\xff\0\0"), record(LOCAL, 22, b"\xff\xff\0\0")), "that it declares"),
    "another checksum": (both(record(ENTRY, 16, b"\0\0"), record(LOCAL, 14, b"\0\0")), "checksum"),
    "gigabytes by its own account": (
        both(record(ENTRY, 24, b"\xff\xff\xff\x7f"), record(LOCAL, 22, b"\xff\xff\xff\x7f")), "would unpack to"),
}  # fmt: skip


# --- every mistake of a value's type or range -----------------------------------------------------------------------

VALUES = (
    "null", "true", '"x"', "4.0", "1.5", "-1", "0", "1", "2", "16777217", "2147483649", "9223372036854775808",
    "1" + "0" * 400, "1e300", "-0.0", "1e-60", "1e22", "[]", "{}", '[1, "a"]', '{"a": 1}', r'"\u001b"', r'"\udc00"',
)  # fmt: skip


def every_value(manifest: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Put every value in the place of every value of a manifest, and take every key away, one at a time.

    Yields:
        What was done, and the bytes of the manifest.
    """
    for path in _paths(manifest):
        plain = copy.deepcopy(dict(manifest))
        holder: Any = plain
        for step in path[:-1]:
            holder = holder[step]
        name = ".".join(map(str, path))
        for value in VALUES:
            holder[path[-1]] = "HERE"
            yield f"{name} = {value[:30]}", json.dumps(plain).replace('"HERE"', value).encode()
        del holder[path[-1]]
        yield f"{name} is missing", json.dumps(plain).encode()


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (key,)
        for rest in _paths(value[key]):
            yield (key, *rest)


# --- mistakes of whoever calls --------------------------------------------------------------------------------------

Spoil = Callable[[Path], object]


def _replace(old: str, new: str) -> Spoil:
    def change(bundle: Path) -> None:
        path = bundle / "manifest.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


def _leave(bundle: Path) -> None: ...


def _no_manifest(bundle: Path) -> None:
    (bundle / "manifest.json").unlink()


def _without_fp16(bundle: Path) -> None:
    plain = json.loads((bundle / "manifest.json").read_text())
    del plain["precisions"]["fp16"]
    (bundle / "manifest.json").write_text(json.dumps(plain))
    shutil.rmtree(bundle / "fp16")


def _scorer(key: str, value: object) -> Spoil:
    def change(bundle: Path) -> None:
        plain = json.loads((bundle / "manifest.json").read_text())
        plain["precisions"]["fp32"]["scorer"][key] = value
        (bundle / "manifest.json").write_text(json.dumps(plain))

    return change


def _more(bundle: Path) -> None:
    (bundle / "notes.txt").touch()


def _a_run(bundle: Path) -> None:
    _no_manifest(bundle)
    (bundle / "model.json").write_text("{}")


def _flip(bundle: Path) -> None:
    data = bytearray((bundle / "scorer.onnx").read_bytes())
    data[100] ^= 1
    (bundle / "scorer.onnx").write_bytes(data)


def _link(bundle: Path) -> None:
    (bundle / "scorer.onnx").rename(bundle / "other.onnx")
    (bundle / "scorer.onnx").symlink_to("other.onnx")


NAN, INFINITY = float("nan"), float("inf")
ROW = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]
# what is done to the golden bundle `table`, options, rows
CALLS: dict[str, tuple[Spoil, dict[str, str], list[float]]] = {
    "nan": (_leave, {}, [*ROW, *ROW[:4], NAN, *ROW[5:]]),
    "infinity": (_leave, {}, [-INFINITY, *ROW[1:]]),
    "no bundle": (shutil.rmtree, {}, ROW),
    "no manifest": (_no_manifest, {}, ROW),
    "a run": (_a_run, {}, ROW),
    "no such precision": (_leave, {"precision": "int4"}, ROW),
    "precision not there": (_without_fp16, {"precision": "fp16"}, ROW),
    "digest": (_flip, {}, ROW),
    "size": (_scorer("size", 7), {}, ROW),
    "impossible size": (_scorer("size", 2**40), {}, ROW),
    "no digest": (_scorer("sha256", "ab"), {}, ROW),
    "listed twice": (_scorer("path", "encoder.onnx"), {}, ROW),
    "another file": (_more, {}, ROW),
    "missing file": (lambda bundle: (bundle / "scorer.onnx").unlink(), {}, ROW),
    "link": (_link, {}, ROW),
    "unknown key": (_replace('"layout"', '"lay": 1, "layout"'), {}, ROW),
    "missing key": (_replace('"variant": "dense",', ""), {}, ROW),
    "key twice": (_replace('"opset": ', '"opset": 18, "opset": '), {}, ROW),
    "wrong type": (_replace('"latent_dim": 3', '"latent_dim": "three"'), {}, ROW),
    "wrong choice": (_replace('"dtype": "float32"', '"dtype": "float64"'), {}, ROW),
    "not finite": (_replace('"latent_dim": 3', '"latent_dim": NaN'), {}, ROW),
    "escaping path": (_replace('"encoder.onnx"', '"../encoder.onnx"'), {}, ROW),
    "other score": (_replace('"kind": "zscore"', '"kind": "mse"'), {}, ROW),
}
