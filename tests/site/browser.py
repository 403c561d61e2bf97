"""Headless Chromium over its DevTools protocol, as far as the tests of the site need it."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0"]
PATIENCE = 30  # seconds


class Page:
    """An open page; `requests` are the addresses that it has asked for."""

    def __init__(self, socket: websocket.WebSocket) -> None:
        self.socket = socket
        self.sent = 0
        self.requests: list[str] = []
        for domain in ("Page", "Network", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its result."""
        self.sent += 1
        self.socket.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.sent:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, awaited if it is a promise."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.05)

    def open(self, url: str) -> None:
        """Open an address, and wait for its formulas."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href.startsWith({json.dumps(url)}) && document.readyState == 'complete'")
        self.evaluate("window.MathJax?.startup?.promise")

    def set_width(self, width: int) -> None:
        """Show pages as a screen of this width does."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)


@contextmanager
def open_page(profile: Path) -> Iterator[Page]:
    """Start Chromium with a new profile, give its page, and end it."""
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        socket = websocket.create_connection(_address(profile), timeout=PATIENCE, suppress_origin=True)
        yield Page(socket)
        socket.close()
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _address(profile: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        with suppress(OSError, ValueError, StopIteration):
            port = int((profile / "DevToolsActivePort").read_text().split()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                return next(target["webSocketDebuggerUrl"] for target in json.load(answer) if target["type"] == "page")
        time.sleep(0.1)
    raise TimeoutError("Chromium did not open its port.")
