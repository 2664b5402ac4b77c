"""A bundle as one HTML page that runs it in any browser: what `--target web` writes beside a bundle.

The page holds the bundle, the JavaScript of `runtime/web` and, where its folder is given, ONNX Runtime Web. Its
Content-Security-Policy (https://www.w3.org/TR/CSP3) forbids every request to elsewhere, so that nobody's row leaves it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import edgeae
from edgeae.bundle import Bundle
from edgeae.bundle.atomic import check_new, write_file
from edgeae.bundle.bundle import MAX_MANIFEST_BYTES
from edgeae.bundle.storage import MANIFEST_NAME, read_file
from edgeae.errors import ExportError, InputError

__all__ = ["runtime_folder", "write_page"]

RUNTIME, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
# in the order of what they need; imports between them are dropped
MODULES = ("errors", "json", "manifest", "archive", "metadata", "rows", "source", "explain", "graph", "edgeae")
PAGE_MODULES = ("table", "picture", "page")

_IMPORT = re.compile(r'^(import|export) \{[^}]*\} from "\.[^"]*";\n', re.MULTILINE)
_PLACE = re.compile(r"\{(policy|title|style|data|script)\}")


def write_page(
    bundle: Bundle | str | os.PathLike[str],
    page: str | os.PathLike[str],
    *,
    onnxruntime_web: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> Path:
    """Write an HTML page that runs a bundle in any browser: draw, open or paste rows, see what the model makes of them.

    Args:
        bundle: The bundle; the page holds all of its files.
        page: The .html file.
        onnxruntime_web: Folder of the npm package onnxruntime-web, which becomes part of the page, 5 MB larger: it then
            needs nothing else and can be opened from the disk. Without it the page looks for the folder
            `onnxruntime-web` beside it on the web server.
        force: Replace what stands at `page`.

    Returns:
        The path of the page.

    Raises:
        InputError: if `page` exists and `force` is false, or the folder does not hold ONNX Runtime Web.
        BundleError: if there is no bundle, or its files are not the ones that its manifest lists.

    Example:
        >>> import tempfile
        >>> page = write_page("export/golden/table", Path(tempfile.mkdtemp()) / "table.html")
        >>> page.read_bytes()[:15]
        b'<!DOCTYPE html>'
    """
    page = Path(page)
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{page}: a page's name must end in .html")
    check_new(page, force=force, what="the page")
    opened = bundle if isinstance(bundle, Bundle) else Bundle.read(bundle)
    files = {MANIFEST_NAME: read_file(opened.path, MANIFEST_NAME, limit=MAX_MANIFEST_BYTES)}
    files |= {file.path: opened.file(file) for file in opened.files()}
    write_file(page, _document(opened.manifest.name, files, onnxruntime_web))
    return page


def runtime_folder(folder: str | os.PathLike[str]) -> Path:
    """Return where in the npm package `folder` the files of ONNX Runtime Web are.

    Raises:
        InputError: if they are not there.
    """
    folder = Path(folder)
    for place in (folder, folder / "dist", folder / "package" / "dist", folder / "onnxruntime-web" / "dist"):
        if (place / RUNTIME).is_file() and (place / WASM).is_file():
            return place
    raise InputError(
        f"{folder}: holds no {RUNTIME} and {WASM}; get them with: npm pack onnxruntime-web && "
        "tar -xzf onnxruntime-web-*.tgz, and give the folder package"
    )


def _document(title: str, bundle: Mapping[str, bytes], onnxruntime_web: str | os.PathLike[str] | None) -> bytes:
    sources = _sources()
    script = "\n".join(
        _IMPORT.sub("", (sources / folder / f"{name}.js").read_text("utf-8"))
        for folder, names in (("src", MODULES), ("page", PAGE_MODULES))
        for name in names
    )
    if "</script" in script.lower():
        raise ExportError(f"{sources}: a module holds </script, which ends a script in a page")
    style = (sources / "page" / "page.css").read_text("utf-8")
    packed = {name: base64.b64encode(data).decode() for name, data in bundle.items()}
    blocks = {"bundle": json.dumps(packed).encode()}
    origin, connect = "'self'", "'self'"
    if onnxruntime_web is not None:
        folder = runtime_folder(onnxruntime_web)
        runtime = (folder / RUNTIME).read_bytes()
        blocks |= {"runtime": runtime.split(b"\n//# sourceMappingURL")[0], "wasm": (folder / WASM).read_bytes()}
        origin, connect = "blob:", "'none'"
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}' 'wasm-unsafe-eval' {origin}; "
        f"style-src '{_digest(style)}'; connect-src {connect}; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    parts = {
        "policy": policy,
        "title": html.escape(title),
        "style": style,
        "data": "\n".join(map(_block, blocks, blocks.values())),
        "script": script,
    }
    template = (sources / "page" / "page.html").read_text("utf-8")
    return _PLACE.sub(lambda place: parts[place[1]], template).encode()


def _sources() -> Path:
    """Return the folder runtime/web, of a checkout or of an installed package."""
    package = Path(edgeae.__file__).parent
    for folder in (package.parent / "runtime" / "web", package / "runtime" / "web"):
        if (folder / "page" / "page.html").exists():
            return folder
    raise ExportError("web: the page's sources (runtime/web) are neither in a checkout nor in the installed package")


def _block(name: str, data: bytes) -> str:
    """Return a block of data; browsers do not run it."""
    packed = base64.b64encode(gzip.compress(data, mtime=0)).decode()
    return f'<script type="application/gzip;base64" id="{name}">{packed}</script>'


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
