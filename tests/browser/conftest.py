"""The really running product, and a real Chromium in front of it.

One console a test module: `manage.py run` on a free port with a state folder of its own, stopped with SIGTERM at the
end. Screenshots land in BACKUPSITE_ARTIFACTS (default: build/screenshots of the tree).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
ADMIN_PASSWORD = "correct horse battery 9"
READY_SECONDS = 60
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass(frozen=True)
class Product:
    """A running console: where it answers and where its state is."""

    url: str
    home: Path
    process: subprocess.Popen[bytes]


def chromium() -> str:
    """Return the browser to use. Fails, and never skips: without a browser nothing here is proven."""
    wanted = os.environ.get("BACKUPSITE_CHROMIUM")
    found = wanted or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found or not Path(found).exists():
        pytest.fail(
            "There is no Chromium for the browser tests: install Debian's package (apt-get install chromium) "
            "or name a browser in BACKUPSITE_CHROMIUM."
        )
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> None:
    """Wait for a state; fail with its name when it doesn't come."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.05)  # the pace of asking, not a guess of how long it takes


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    home = tmp_path_factory.mktemp("console") / "home"
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("BACKUPSITE_", "DATABASE_URL", "DJANGO_"))}
    environment |= {
        "BACKUPSITE_HOME": str(home),
        "BACKUPSITE_BIND": f"127.0.0.1:{port}",
        "BACKUPSITE_ADMIN_PASSWORD": ADMIN_PASSWORD,
    }
    log = (home.parent / "console.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "manage.py", "run"],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or answers(url), "the console")
        if process.poll() is not None:
            pytest.fail(
                f"the console ended with {process.returncode}: {(home.parent / 'console.log').read_text()[-4000:]}"
            )
        yield Product(url, home, process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail("the console did not stop within 40 s of SIGTERM")
        log.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=flags)
        yield running
        running.close()


@pytest.fixture
def sign_in(browser: Browser, product: Product) -> Iterator[Callable[[str, str], Page]]:
    """Return a function that opens a page in a context of its own, signed in as this person."""
    contexts: list[BrowserContext] = []

    def signed_in(name: str, password: str) -> Page:
        context = browser.new_context(base_url=product.url, viewport={"width": 1280, "height": 900})
        context.set_default_timeout(8000)
        contexts.append(context)
        page = context.new_page()
        page.goto("/account/login/")
        page.get_by_label("Username").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "/account/login" not in url)
        return page

    yield signed_in
    for number, context in enumerate(contexts):
        for page in context.pages:
            page.screenshot(path=artifacts() / f"last-seen-{number}.png", full_page=True)
        context.close()


def artifacts() -> Path:
    folder = Path(os.environ.get("BACKUPSITE_ARTIFACTS", ROOT / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def shot() -> Callable[[Page, str], None]:
    folder = artifacts()

    def take(page: Page, name: str) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=True)

    return take
