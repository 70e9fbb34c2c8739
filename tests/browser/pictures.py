"""The pictures of README and docs, drawn from fixed data: `make screenshots`.

Starts a console of its own on an empty state folder, fills its database with a month of an accountant's backups, and
takes the pages as an administrator sees them. The data is made up; the pages are the product's.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import ADMIN_PASSWORD, FLAGS, ROOT, answers, chromium, free_port, wait_until

if TYPE_CHECKING:
    from jobs.models import Job
    from repositories.models import Chain

MIB, GIB = 2**20, 2**30
SEED = 2026


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="backupsite-pictures-") as temporary:
        os.chmod(temporary, 0o711)  # the user of the embedded Postgres passes through
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        os.environ |= {
            "BACKUPSITE_HOME": f"{temporary}/home",
            "BACKUPSITE_BIND": f"127.0.0.1:{port}",
            "DJANGO_SETTINGS_MODULE": "backupsite.settings",
        }
        environment = os.environ | {"BACKUPSITE_ADMIN_PASSWORD": ADMIN_PASSWORD}
        console = subprocess.Popen([sys.executable, "manage.py", "run"], cwd=ROOT, env=environment)
        try:
            wait_until(lambda: answers(url), "the console")
            fill(Path(temporary))
            draw(url, folder)
        finally:
            console.send_signal(signal.SIGTERM)
            console.wait(40)


def fill(temporary: Path) -> None:
    """A month of three jobs: one that changed its keys, one of another kind, one without encryption."""
    import django

    django.setup()
    from jobs.models import Job, JobChainState
    from repositories.models import Kind
    from tests import factories

    chance = random.Random(SEED)
    today = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0)
    shelves = {name: temporary / name for name in ("nas-1", "usb-disk")}
    for path in shelves.values():
        path.mkdir()
    nas, disk = (factories.make_repository(path, name=name) for name, path in shelves.items())
    old = factories.make_password("a", name="finance 2025", hint="the green notebook")
    new = factories.make_password("b", name="finance 2026", hint="the blue notebook")
    people = factories.make_password("c", name="people", hint="safe, second drawer")
    daily = {"schedule_kind": "daily", "schedule_time": time(2), "time_zone": "Europe/Berlin", "schedule_since": today}

    ledger = factories.make_job(
        name="Ledger files", sources=["/srv/ledger"], repository=nas, password=new, keep_points=14, **daily
    )
    plain = factories.make_chain(ledger, encrypted=False, state=JobChainState.PREVIOUS)
    chain = factories.make_chain(ledger)
    for day in range(21, -1, -1):
        at = today - timedelta(days=day)
        first_of_chain = day in (21, 15)
        size = chance.randint(31 * GIB, 33 * GIB) if first_of_chain else chance.randint(600 * MIB, 1800 * MIB)
        key = None if day > 15 else (old if day > 6 else new).newest()
        run(ledger, plain if day > 15 else chain, at, size, key, Kind.FULL if first_of_chain else Kind.INCREMENTAL)
        if day == 9:
            failed(ledger, at)
    for name, record, size in (("Mail store", people, 6 * GIB), ("Home folders", people, 9 * GIB)):
        job = factories.make_job(
            name=name, sources=[f"/srv/{name.split()[0].lower()}"], repository=nas, password=record, **daily
        )
        other = factories.make_chain(job)
        for day in range(9, -1, -1):
            run(
                job,
                other,
                today - timedelta(days=day, hours=-1),
                size if day == 9 else chance.randint(90 * MIB, 700 * MIB),
                record.newest(),
                None,
            )
    images = factories.make_job(
        name="Installer images",
        sources=["/srv/images"],
        repository=disk,
        encryption="off",
        password=None,
        encryption_off_reason="public downloads",
    )
    run(images, factories.make_chain(images), today - timedelta(days=2), 12 * GIB, None, Kind.FULL)
    Job.objects.update(schedule_since=datetime.now(UTC))


def failed(job: Job, at: datetime) -> None:
    from jobs.models import Session
    from tests import factories

    session = factories.make_session(
        job,
        state="failed",
        started_at=at,
        ended_at=at + timedelta(minutes=1),
        result_code="source-unreadable",
        result_params={"path": "/srv/ledger", "reason": "Permission denied"},
    )
    Session.objects.filter(pk=session.pk).update(created_at=at)


def name_the_places() -> None:
    """The proxy was asked about real folders; the pages after that show the places of a real installation."""
    from repositories.models import Repository

    for repository in Repository.objects.all():
        Repository.objects.filter(pk=repository.pk).update(path=f"/mnt/{repository.name}")


def run(job: Job, chain: Chain, at: datetime, size: int, key: object, kind: str | None) -> None:
    """Add a point, and the session that wrote it."""
    from jobs.models import Session
    from repositories.models import Kind
    from tests import factories

    fields = {"kind": kind} if kind else {}
    point = factories.make_point(
        chain,
        opens_with=key,
        started_at=at,
        sealed_at=at + timedelta(minutes=2),
        size_bytes=size,
        source_bytes=310 * GIB,
        files=48_213,
        **fields,
    )
    full = point.kind == Kind.FULL
    session = factories.make_session(
        job,
        state="succeeded",
        started_at=at,
        ended_at=at + timedelta(seconds=7868 if full else 102),
        plan_kind=point.kind,
        plan_reason="first-session" if full else "changes-since-parent",
        plan_params={} if full else {"sequence": point.sequence - 1},
        result_code="backed-up",
        result_params={"kind": point.kind, "sequence": point.sequence, "new_chain": False, "warnings": 0},
        written_point=point,
        read_bytes=310 * GIB if full else size * 16,
        written_bytes=size,
        source_bytes=310 * GIB,
        files=48_213,
    )
    Session.objects.filter(pk=session.pk).update(created_at=at)


def draw(url: str, folder: Path) -> None:
    with sync_playwright() as playwright:
        flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
        browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
        page = browser.new_context(base_url=url, viewport={"width": 1280, "height": 860}).new_page()
        page.goto("/account/login/")
        page.get_by_label("Username").fill("admin")
        page.get_by_label("Password").fill(ADMIN_PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda address: "/account/login" not in address)
        for name, visit in PICTURES.items():
            if name != "dashboard":
                ThreadPoolExecutor(1).submit(name_the_places).result()  # Playwright's loop forbids Django here
            visit(page)
            page.wait_for_load_state("networkidle")
            page.screenshot(path=folder / f"{name}.png", full_page=name == "job")
        browser.close()


def open_job(page: Page) -> None:
    page.goto("/jobs/")
    page.get_by_role("link", name="Ledger files").first.click()
    page.wait_for_url("**/jobs/*-*/")


def disable_encryption(page: Page) -> None:
    open_job(page)
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Not encrypted").check()
    page.locator("[data-code=not-encrypted-from-now]").wait_for()
    page.locator("#encryption").scroll_into_view_if_needed()


PICTURES: dict[str, Callable[[Page], object]] = {
    "dashboard": lambda page: page.goto("/"),
    "job": open_job,
    "job-form": disable_encryption,
}

if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images")
