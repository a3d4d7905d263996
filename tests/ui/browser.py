"""A headless Chromium, and the live page in a process of its own, for the tests in `test_browser.py`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By

from tests.conftest import ROOT
from tests.support.ports import free_port

CONTRAST = """
const parse = c => {
  const m = c.match(/[\\d.]+/g).map(Number), rgb = m.slice(0, 3).map(v => c.startsWith('color(srgb') ? v * 255 : v);
  return [...rgb, m.length > 3 ? m[3] : 1];
};
const linear = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
const light = c => { const [r, g, b] = c.slice(0, 3).map(linear); return .2126 * r + .7152 * g + .0722 * b };
const ground = e => {
  for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] > .9) return c }
  return [255, 255, 255, 1] };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.textContent.trim()).join('');
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  if (!text || !box.width || style.visibility !== 'visible' || e.closest('svg, [aria-hidden=true], .q-icon')) continue;
  const pair = [light(parse(style.color)), light(ground(e))].sort((a, b) => b - a);
  const ratio = (pair[0] + .05) / (pair[1] + .05);
  if (ratio < 4.5) found.push(text.slice(0, 40) + ' ' + ratio.toFixed(2));
}
return found;
"""
"""JavaScript that returns texts whose contrast with their ground is below 4.5:1 (WCAG AA)."""


CONNECTED = """
const loaded = performance.getEntriesByType('resource').some(e => e.name.includes('nicegui.js'));
return document.readyState === 'complete' && (!loaded || window.did_handshake === true);
"""
"""JavaScript that returns whether a page is loaded and, if it is NiceGUI's, connected to its server."""


def chromium() -> webdriver.Chrome:
    """Start a browser.

    Raises:
        FileNotFoundError: Chromium or its driver is not installed.
    """
    binary, driver = shutil.which("chromium") or shutil.which("chromium-browser"), shutil.which("chromedriver")
    if not (binary and driver):
        raise FileNotFoundError("chromium and chromedriver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1280,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


class LivePage:
    """`tests.ui.served` in a process of its own; the constructor waits until it listens."""

    def __init__(self, lake: Path, *arguments: str) -> None:
        port = free_port()
        command = [sys.executable, "-m", "tests.ui.served", str(lake), str(port), *arguments]
        pipe = subprocess.PIPE
        environment = {n: value for n, value in os.environ.items() if not n.startswith(("PYTEST", "NICEGUI"))}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout
        assert self._process.stdout.readline().strip() == "ready"
        self.url = f"http://127.0.0.1:{port}"

    def order(self, text: str) -> None:
        """Give an order, such as `raise 7`."""
        assert self._process.stdin
        self._process.stdin.write(f"{text}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait(30)


class Person:
    """What a person sees and does in the browser."""

    def __init__(self, browser: webdriver.Chrome, url: str, screenshots: Path | None) -> None:
        self.browser, self._url, self._screenshots = browser, url, screenshots

    def open(self, path: str) -> None:
        """Open a page, and wait until it is connected: NiceGUI drops what a person does before."""
        self.browser.get(f"{self._url}{path}")
        self.waits(lambda: self.browser.execute_script(CONNECTED), f"{path} to connect", 60)

    def theme(self, dark: bool) -> None:
        """Choose a theme, as the button does for the next pages."""
        self.browser.execute_script(f"localStorage.setItem('tocsin-dark', '{str(dark).lower()}')")

    @property
    def text(self) -> str:
        """All visible text."""
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def sees(self, text: str, seconds: float = 30) -> float:
        """Wait until a text is on screen. Returns when it was seen."""
        self.waits(lambda: text in self.text, f"{text!r} on screen", seconds)
        return time.monotonic()

    def waits(self, what: Callable[[], Any], why: str, seconds: float = 30) -> Any:
        """Wait until `what` returns a true value."""
        give_up = time.monotonic() + seconds
        while True:
            try:
                if found := what():
                    return found
            except (StaleElementReferenceException, NoSuchElementException):
                pass  # the page has just changed
            assert time.monotonic() < give_up, f"expected within {seconds:g} s: {why}"
            time.sleep(0.05)  # each look costs the browser CPU, which the page needs, too

    def finds(self, css: str, text: str = "") -> Any:
        """The first visible element that matches, with this text if one is given."""
        return self.waits(
            lambda: next(
                (
                    e
                    for e in self.browser.find_elements(By.CSS_SELECTOR, css)
                    if e.is_displayed() and (not text or e.text.strip() == text)
                ),
                None,
            ),
            f"an element {css} {text}",
        )

    def clicks(self, css: str, text: str = "") -> None:
        """Click the first visible element that matches. A grid may draw it anew between the look and the click."""
        self.waits(lambda: self.finds(css, text).click() is None, f"a click on {css} {text}")

    def pictures(self, name: str) -> None:
        """Save a picture of the page, if asked for."""
        if self._screenshots:
            self._screenshots.mkdir(parents=True, exist_ok=True)
            self.browser.save_screenshot(str(self._screenshots / f"{name}.png"))

    def errors(self) -> list[str]:
        """Errors in the browser's console since the last call."""
        return [str(entry["message"]) for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]
