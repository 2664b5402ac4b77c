"""A headless Chromium to look at pages with: what they request, how wide they are, a picture of them.

It is spoken to over two pipes in the Chrome DevTools Protocol (https://chromedevtools.github.io/devtools-protocol), so
that nothing but Chromium itself is needed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Look", "find_chromium"]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0
COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded")


def find_chromium() -> str | None:
    """Return the path of a Chromium or Chrome, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass(frozen=True)
class Look:
    """What a page was like.

    Attributes:
        requests: Addresses of everything it asked for, itself left out.
        messages: What the browser complained about: console, exceptions, policy violations.
        width: How wide its content is, in CSS pixels.
        smallest_text: The smallest size of any text on it, in CSS pixels.
        picture: The whole page as a PNG.
        value: What the script gave.
    """

    requests: tuple[str, ...]
    messages: tuple[str, ...]
    width: int
    smallest_text: float
    picture: bytes
    value: Any = None


MEASURE = """
(() => {
  const sizes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && parent.getClientRects().length) {
      sizes.push(parseFloat(getComputedStyle(parent).fontSize));
    }
  }
  return [document.documentElement.scrollWidth, Math.min(99, ...sizes)];
})()
"""


class Browser:
    """A running Chromium; a context manager."""

    def __init__(self, path: str) -> None:
        """Start it, with a profile of its own that is removed with it."""
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        ours_read, theirs_write = os.pipe()
        theirs_read, ours_write = os.pipe()
        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        switches += ["--no-first-run", "--disable-background-networking", f"--user-data-dir={self._folder.name}"]
        # Chromium reads commands from descriptor 3 and answers on 4
        shell = f'exec "$@" 3<&{theirs_read} 4>&{theirs_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", path, *switches, "about:blank"],
            pass_fds=(theirs_read, theirs_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_read)
        os.close(theirs_write)
        self._read, self._write = ours_read, ours_write
        self._rest, self._number = b"", 0
        self._events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError, TimeoutError):
            self._call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._folder.cleanup()

    def look(
        self,
        page: Path | str,
        *,
        width: int,
        dark: bool = False,
        media: str = "screen",
        scale: float = 1.0,
        script: str = "null",
    ) -> Look:
        """Open a file or an address in a window of `width` CSS pixels, wait for what `script` gives, and look at it."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._events.clear()
        for domain in ("Page", "Network", "Runtime", "Log", "Audits"):
            self._call(f"{domain}.enable", session)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": scale, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", session, **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", session, media=media, features=[scheme])
        address = page.resolve().as_uri() if isinstance(page, Path) else page
        plain = address.partition("#")[0]
        self._call("Page.navigate", session, url=address)
        self._wait("Page.loadEventFired")
        value = self._evaluate(session, script)
        found = self._evaluate(session, MEASURE)
        size = self._call("Page.getLayoutMetrics", session)["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": width, "height": size["height"], "scale": 1}
        shot = self._call("Page.captureScreenshot", session, captureBeyondViewport=True, clip=clip)["data"]
        look = Look(
            requests=tuple(url for url in self._urls() if url != plain and not url.startswith("data:")),
            messages=tuple(self._messages()),
            width=int(found[0]),
            smallest_text=float(found[1]),
            picture=base64.b64decode(shot),
            value=value,
        )
        self._call("Target.closeTarget", targetId=target)
        return look

    def _evaluate(self, session: str, script: str) -> Any:
        wanted = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self._call("Runtime.evaluate", session, **wanted)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"the script failed: {json.dumps(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def _urls(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] == "Network.requestWillBeSent":
                yield event["params"]["request"]["url"]

    def _messages(self) -> Iterator[str]:
        for event in self._events:
            if event["method"] in COMPLAINTS:
                yield json.dumps(event["params"])

    def _call(self, method: str, session: str | None = None, **parameters: object) -> dict[str, Any]:
        self._number += 1
        message: dict[str, object] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        for answer in self._answers():
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)
        raise TimeoutError(f"Chromium closed the pipe at {method}")

    def _wait(self, method: str) -> None:
        if any(event.get("method") == method for event in self._events):
            return
        for event in self._answers():
            self._events.append(event)
            if event.get("method") == method:
                return

    def _answers(self) -> Iterator[dict[str, Any]]:
        until = time.monotonic() + SECONDS
        while True:
            while b"\0" not in self._rest:
                if not select.select([self._read], [], [], max(0.0, until - time.monotonic()))[0]:
                    raise TimeoutError("Chromium does not answer")
                more = os.read(self._read, 2**20)
                if not more:
                    return
                self._rest += more
            line, _, self._rest = self._rest.partition(b"\0")
            yield json.loads(line)
