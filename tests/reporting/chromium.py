"""A headless Chromium driven through its DevTools pipe: what a reader's browser makes of a page."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for one answer, on a machine that is busy with other work
HEIGHT = 844
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)
# DevTools reads from descriptor 3 and writes to 4.
START = (
    "import fcntl, os, sys\n"
    "ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]\n"
    "os.dup2(ends[0], 3); os.dup2(ends[1], 4)\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)
MEASURE = """(async () => {
  document.querySelectorAll('details').forEach(part => { part.open = true; });
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const root = document.documentElement;
  const scrolls = element => {
    for (let part = element; part; part = part.parentElement)
      if (['auto', 'scroll'].includes(getComputedStyle(part).overflowX)) return true;
    return false;
  };
  const wide = [...document.body.querySelectorAll('*')].filter(
    part => part.getBoundingClientRect().right > innerWidth + 1 && !scrolls(part));
  return JSON.stringify({
    overflow: root.scrollWidth - root.clientWidth,
    wide: wide.map(part => part.tagName + ' ' + part.className),
    images: images.map(image => image.naturalWidth),
    background: getComputedStyle(document.body).backgroundColor,
    text: document.body.innerText,
  });
})()"""


class View(NamedTuple):
    """What a browser made of a page, all its folds open.

    Attributes:
        overflow: Pixels by which the document is wider than the window.
        wide: Elements that stick out of the window and of nothing that scrolls.
        images: Natural width of every image, 0 for one that did not load.
        background: Colour of the page.
        text: Text that a reader sees.
        errors: Script errors, and messages of the console at that level.
        requests: Addresses that were asked for, beside the page itself.
    """

    overflow: int
    wide: list[str]
    images: list[int]
    background: str
    text: str
    errors: list[str]
    requests: list[str]


def find_chromium() -> str | None:
    """Return the path of a Chromium, None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A running browser; close it.

    Args:
        program: Path of Chromium.
        folder: Its profile.
    """

    def __init__(self, program: str, folder: Path) -> None:
        (down, self._out), (self._in, up) = os.pipe(), os.pipe()
        command = [sys.executable, "-c", START, str(down), str(up), program]
        self._process = subprocess.Popen(
            [*command, *FLAGS, f"--user-data-dir={folder}"],
            pass_fds=(down, up),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down)
        os.close(up)
        self._count = 0
        self._pending = b""
        self._events: list[dict[str, Any]] = []

    def close(self) -> None:
        """End the browser."""
        self._process.terminate()
        self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def look(self, path: Path, *, width: int, dark: bool = False) -> View:
        """Open a page in a window of ``width`` pixels and return what becomes of it."""
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable", session)
        self._ask(
            "Emulation.setDeviceMetricsOverride", session,
            width=width, height=HEIGHT, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", session, features=[scheme])
        self._events.clear()
        self._ask("Page.navigate", session, url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._read())
        answer = self._ask(
            "Runtime.evaluate", session, expression=MEASURE, awaitPromise=True, returnByValue=True
        )
        seen = json.loads(answer["result"]["value"])
        view = View(**seen, errors=self._errors(), requests=self._requests(path))
        self._ask("Target.closeTarget", targetId=target)
        return view

    def _errors(self) -> list[str]:
        found = []
        for event in self._events:
            method, told = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(told["exceptionDetails"]["text"])
            elif method == "Runtime.consoleAPICalled" and told["type"] == "error":
                found.append(str(told["args"]))
            elif method == "Log.entryAdded" and told["entry"]["level"] == "error":
                found.append(told["entry"]["text"])
        return found

    def _requests(self, path: Path) -> list[str]:
        asked = [
            event["params"]["request"]["url"]
            for event in self._events
            if event["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in asked if not url.startswith("data:") and url != path.as_uri()]

    def _ask(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            if "method" in answer:
                self._events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            read = os.read(self._in, 1 << 16) if ready else b""
            if not read:
                raise RuntimeError("Chromium ended or does not answer")
            self._pending += read
        message, _, self._pending = self._pending.partition(b"\0")
        told: dict[str, Any] = json.loads(message)
        return told
