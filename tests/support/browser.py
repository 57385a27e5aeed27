"""A real browser for pages: Chromium, driven over its debugging pipe with nothing but the standard library."""

import base64
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

CHROMIUM = next(
    (found for found in map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")) if found), None
)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here to open the page in; install the system's package 'chromium'"
)
PATIENCE_S = 60


class Browser:
    """One tab. `complaints` is what the console, the network and failing scripts said."""

    def __init__(self, process, write, read):
        self.process, self._write, self._read = process, write, read
        self._number, self._rest, self._session = 0, b"", None
        self.complaints, self.requested, self.events = [], [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode())
        os.write(self._write, b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self):
        while b"\0" not in self._rest:
            block = os.read(self._read, 1 << 16)
            assert block, "the browser has gone"
            self._rest += block
        text, _, self._rest = self._rest.partition(b"\0")
        answer = json.loads(text)
        name, about = answer.get("method"), answer.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"])
        elif name == "Log.entryAdded":
            self.complaints.append(about["entry"])
        elif name == "Runtime.consoleAPICalled":
            self.complaints.append(about["args"])
        elif name == "Network.requestWillBeSent":
            self.requested.append(about["request"]["url"])
        self.events.append(name)
        return answer

    def open(self, path, width=1280, dark=False):
        """Load a file at a width, in light or dark, and wait until it is there."""
        self.complaints, self.requested = [], []
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        until = time.monotonic() + PATIENCE_S
        while "Page.loadEventFired" not in self.events:
            assert time.monotonic() < until, "the page was not loaded"
            self.value("0")

    def value(self, expression):
        """What an expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def middle(self, selector):
        """The middle of an element, scrolled into view."""
        return self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'});"
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )

    def picture(self, path):
        """The whole page as a PNG file."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextmanager
def browser(folder):
    """A browser that keeps its profile in `folder` and ends with the block."""
    theirs_in, write = os.pipe()
    read, theirs_out = os.pipe()

    command = (
        CHROMIUM, "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}",
    )  # fmt: skip
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}', "bash", *command],
        pass_fds=(theirs_in, theirs_out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Browser(process, write, read)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        os.close(write)
        os.close(read)
