"""Keys by hand of a real browser on the running product: a recovery key made here, a real KMIP server, a job under its
key, a rewrap, the map, and the sheet that opens what was written without the console.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import ADMIN_PASSWORD, ROOT, Product
from tests.browser.test_story import SESSION_MILLISECONDS, Shot, SignIn, expect_answer, newest_point, press_save, run
from tests.kms.certificates import the_ca, the_client
from tests.kms.server import KmipServer, start

SECRET = "walnut harbour eleven lanterns"
ALLOWED = ("label-title-only",)


@pytest.fixture(scope="module")
def kms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KmipServer]:
    with start(tmp_path_factory.mktemp("kmip-of-the-story")) as server:
        yield server


def looks(page: Page, name: str, shot: Shot) -> None:
    """A picture in light and dark, wide and narrow; no violation of accessibility; nothing wider than a phone."""
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        shot(page, f"keys-{name}-{scheme}")
    page.set_viewport_size({"width": 360, "height": 780})
    shot(page, f"keys-{name}-narrow")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{name} is wider than a phone"
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(color_scheme="light")
    found = [v for v in Axe().run(page).response["violations"] if v["id"] not in ALLOWED]
    assert not found, [(v["id"], [n["html"][:200] for n in v["nodes"]][:3]) for v in found]


def add_recovery_key(page: Page, shot: Shot) -> str:
    """Make a pair here, and return the text of its sheet."""
    page.goto("/keys/recovery/make/")
    page.get_by_label("Name").fill("Safe in the office")
    page.get_by_role("button", name="Make the pair and show the sheet").click()
    expect(page.locator("main")).to_contain_text("Safe in the office")
    looks(page, "sheet", shot)
    letters = page.locator("main").inner_text().partition("Private half")[2]
    return " ".join(re.findall(r"\b[A-Z2-7]{4}\b", letters)[:15])  # they come first


def add_server(page: Page, kms: KmipServer, shot: Shot) -> str:
    page.goto("/keys/kms/new/")
    page.get_by_label("Name", exact=True).fill("Vault KMS")
    page.locator("#id_host").fill(kms.host)
    page.locator("#id_port").fill(str(kms.port))
    page.locator("#id_ca").fill(the_ca().pem)
    page.locator("#id_certificate").fill(the_client().pem)
    page.locator("#id_private_key").fill("no key at all")
    page.get_by_role("button", name="Try it and save").click()
    expect(page.locator("main")).to_contain_text("PEM")
    page.locator("#id_private_key").fill(the_client().key_pem)
    page.get_by_role("button", name="Try it and save").click()
    page.wait_for_url(lambda url: not url.endswith("/new/"))
    return page.url


def add_repository(page: Page, folder: Path) -> None:
    page.goto("/repositories/new/")
    page.get_by_label("Name").fill("Shelf")
    page.get_by_label("Directory").fill(str(folder))
    page.get_by_role("button", name="Add").or_(page.get_by_role("button", name="Save")).first.click()
    page.wait_for_url(lambda url: not url.endswith("/new/"))


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_keys_from_the_sheet_to_the_map(
    product: Product, sign_in: SignIn, shot: Shot, kms: KmipServer, tmp_path: Path
) -> None:
    source, repository = tmp_path / "data", tmp_path / "repository"
    source.mkdir()
    (source / "ledger.txt").write_text("all of it\n" * 500)
    page = sign_in("admin", ADMIN_PASSWORD)
    add_repository(page, repository)

    # A job under a password, before there is anything else
    page.goto("/jobs/new/")
    page.locator("#id_name").fill("Ledger files")
    page.get_by_label("Directories to back up").fill(str(source))
    page.locator("#id_new_name").fill("finance 2026")
    page.locator("#id_new_password").fill(SECRET)
    page.locator("#id_new_password_again").fill(SECRET)
    page.locator("#id_schedule_kind").select_option("manual")
    press_save(page)
    job_url = page.url
    run(page, job_url, kind="full", reason="It is the first session of this job.")

    # The job goes over to a KMS: the form says what that depends on, before it is saved
    server_url = add_server(page, kms, shot)
    looks(page, "server", shot)
    page.goto(job_url + "edit/")
    page.locator("[name=encryption][value=kms]").check()
    page.locator("#id_kms_server").select_option(label="Vault KMS")
    expect_answer(page, "key-changed")
    expect(page.locator("[data-code=no-recovery-key]")).to_be_visible()
    looks(page, "job-form", shot)
    sheet = add_recovery_key(page, shot)
    page.goto(job_url + "edit/")
    page.locator("[name=encryption][value=kms]").check()
    page.locator("#id_kms_server").select_option(label="Vault KMS")
    expect_answer(page, "key-changed")
    expect(page.locator("[data-code=no-recovery-key]")).to_have_count(0)
    press_save(page)
    run(page, job_url, kind="incremental", reason="The encryption key was changed from finance 2026 to")
    page.goto(job_url)
    looks(page, "chain", shot)

    # The map, and what if
    page.goto("/keys/map/")
    looks(page, "map", shot)
    page.goto(server_url)
    page.get_by_role("button", name="Poll").or_(page.get_by_role("button", name="Ask")).first.click()
    live = page.locator("#session-live")
    expect(live).to_have_attribute("data-state", "succeeded", timeout=SESSION_MILLISECONDS)

    # The first point, too, gets slots of the KMS key and the recovery key
    point_url = newest_point(page, job_url)
    page.goto(point_url)
    looks(page, "point", shot)
    page.goto(job_url)
    page.get_by_role("link", name="Rewrap the chain …").click()
    looks(page, "rewrap", shot)
    page.get_by_role("button", name="Start the rewrap").click()
    expect(page.locator("#session-live")).to_have_attribute("data-state", "succeeded", timeout=SESSION_MILLISECONDS)

    # Without the console: the sheet opens the first point as well
    sheet_file = tmp_path / "sheet.txt"
    sheet_file.write_text(sheet)
    command = [sys.executable, "-m", "repositories.engine", "recover", str(repository), "--into", str(tmp_path / "out")]
    subprocess.run([*command, "--recovery-key", str(sheet_file), "--point", "1"], cwd=ROOT, check=True)
    assert (tmp_path / "out" / str(source / "ledger.txt").lstrip("/")).read_text() == "all of it\n" * 500

    # Health of the keys on the dashboard, the lists
    for address, name in (
        ("/", "dashboard"),
        ("/keys/", "passwords"),
        ("/keys/kms/", "servers"),
        ("/keys/recovery/", "recovery"),
    ):
        page.goto(address)
        looks(page, name, shot)
