"""The main job, end to end, by hand of a real browser on the running product: an encrypted chain, its changes of key,
and back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import ADMIN_PASSWORD, ROOT, Product

SignIn = Callable[[str, str], Page]
Shot = Callable[[Page, str], None]

FIRST_SECRET = "the first pässword "  # a trailing blank belongs to it
SECOND_SECRET = "a second secret, longer"
PEOPLE_PASSWORD = "people come and go 7"
SESSION_MILLISECONDS = 60_000


def real_tree(into: Path) -> None:
    """Copy real files of the system, links and all, and add what is awkward."""
    into.mkdir(parents=True)
    bulky = shutil.ignore_patterns(
        "__pycache__", "site-packages", "test", "idlelib", "lib2to3", "config-*", "*.a", "lib-dynload"
    )
    for source in (Path(sysconfig.get_path("stdlib")), Path("/usr/share/zoneinfo/Europe"), Path("/etc/ssl/certs")):
        if source.is_dir():
            shutil.copytree(source, into / source.name, symlinks=True, ignore=bulky)
    assert count_files(into) > 300
    (into / "two\nlines").write_text("a name with a newline")
    Path(os.fsdecode(os.fsencode(into) + b"/not-utf8-\xff")).write_bytes(b"\x00\xff" * 5000)
    (into / "<b>bold & bad.txt").write_text("a name that is markup")
    (into / 'quoted "name".txt').write_text("to be downloaded")
    (into / "large.bin").write_bytes(os.urandom(3 << 20))
    os.link(into / "large.bin", into / "large-again.bin")
    (into / "secret").write_text("mode 0600")
    (into / "secret").chmod(0o600)


def count_files(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder))


def described(folder: Path) -> dict[bytes, tuple[object, ...]]:
    """Return what counts of every entry below: type and mode, owner, time of change, link target, content."""
    found: dict[bytes, tuple[object, ...]] = {}
    base = os.fsencode(folder)
    for parent, folders, files in os.walk(base):
        for name in folders + files:
            path = os.path.join(parent, name)
            s = os.lstat(path)
            link = os.readlink(path) if os.path.islink(path) else b""
            content = Path(os.fsdecode(path)).read_bytes() if os.path.isfile(path) and not link else b""
            times = 0 if link else s.st_mtime_ns
            found[os.path.relpath(path, base)] = (s.st_mode, s.st_uid, s.st_gid, times, link, content)
    return found


def press_save(page: Page) -> None:
    page.get_by_role("button", name="Save", exact=True).click()
    page.wait_for_url(lambda url: not url.endswith(("/edit/", "/new/")))


def expect_answer(page: Page, reason: str) -> None:
    """The live preview says this, before anything is saved."""
    expect(page.locator("#next-session")).to_have_attribute("data-reason", reason)


def run(page: Page, job_url: str, *, kind: str, reason: str) -> None:
    """Press Run now, watch the session to its end, and compare what it says with what was announced."""
    page.goto(job_url)
    page.get_by_role("button", name="Run now").click()
    live, link = page.locator("#session-live"), page.get_by_role("link", name="See session")
    expect(live.or_(link).first).to_be_visible()
    if not live.count():
        link.click()
    expect(live).to_have_attribute("data-state", "succeeded", timeout=SESSION_MILLISECONDS)
    expect(live).to_contain_text(f"Wrote {kind}" if f"Wrote {kind}" in live.inner_text() else kind)
    expect(live).to_contain_text(reason)


def make_user(page: Page, name: str, role: str) -> None:
    page.goto("/users/new/")
    page.get_by_label("Name", exact=True).or_(page.get_by_label("Username")).first.fill(name)
    page.get_by_label("Password", exact=True).fill(PEOPLE_PASSWORD)
    page.get_by_label("The same password again").fill(PEOPLE_PASSWORD)
    page.get_by_label(role, exact=True).check()
    page.get_by_role("button", name="Create the user").click()
    page.wait_for_url(lambda url: not url.endswith("/new/"))


def restore_everything(page: Page, point_url: str, into: Path) -> None:
    page.goto(point_url)
    page.get_by_role("link", name="Browse and restore").click()
    page.get_by_role("link", name="Restore everything").click()
    page.get_by_label("Into the directory").fill(str(into))
    page.get_by_role("button", name="Restore", exact=True).click()
    live = page.locator("#session-live")
    expect(live).to_have_attribute("data-state", "succeeded", timeout=SESSION_MILLISECONDS)


def recover(repository: Path, into: Path, secret: str, tmp_path: Path) -> None:
    password_file = tmp_path / "password.txt"
    password_file.write_text(secret + "\n")
    command = [sys.executable, "-m", "repositories.engine", "recover", str(repository), "--into", str(into)]
    subprocess.run([*command, "--password-file", str(password_file), "--point", "2"], cwd=ROOT, check=True)


@pytest.mark.browser
@pytest.mark.timeout(300)
def test_the_main_job_end_to_end(product: Product, sign_in: SignIn, shot: Shot, tmp_path: Path) -> None:
    source, repository = tmp_path / "data", tmp_path / "repository"
    real_tree(source)
    page = sign_in("admin", ADMIN_PASSWORD)
    shot(page, "story-01-welcome")

    page.goto("/repositories/new/")
    page.get_by_label("Name").fill("Shelf")
    page.get_by_label("Directory").fill(str(repository))
    page.get_by_role("button", name="Add").or_(page.get_by_role("button", name="Save")).first.click()
    page.wait_for_url(lambda url: not url.endswith("/new/"))

    page.goto("/jobs/new/")
    page.locator("#id_name").fill("Ledger files")
    page.get_by_label("Directories to back up").fill(str(source))
    page.locator("#id_new_name").fill("finance 2026")
    page.locator("#id_new_hint").fill("the green notebook")
    page.locator("#id_new_password").fill(FIRST_SECRET)
    page.locator("#id_new_password_again").fill(FIRST_SECRET)
    page.locator("#id_schedule_kind").select_option("manual")
    expect_answer(page, "first-session")
    shot(page, "story-02-new-job")
    press_save(page)
    job_url = page.url
    run(page, job_url, kind="full", reason="It is the first session of this job.")
    shot(page, "story-03-first-session")

    (source / "added.txt").write_text("a new file")
    (source / "secret").write_text("changed")
    (source / "<b>bold & bad.txt").unlink()
    second = described(source)
    run(page, job_url, kind="incremental", reason="It holds the changes since point 1")

    page.goto(job_url + "edit/")
    page.locator("#id_password").select_option("new")
    page.locator("#id_new_name").fill("finance 2027")
    page.locator("#id_new_password").fill(SECOND_SECRET)
    page.locator("#id_new_password_again").fill(SECOND_SECRET)
    expect_answer(page, "key-changed")
    expect(page.locator("#job-preview")).to_contain_text("Writes an incremental")
    shot(page, "story-04-password-changed")
    press_save(page)
    (source / "added.txt").write_text("changed under the new password")
    run(page, job_url, kind="incremental", reason="The encryption key was changed from finance 2026 to finance 2027.")
    page.goto(job_url)
    shot(page, "story-05-chain")

    into = product.home / "restores" / "second"
    page.get_by_text("As a table").click()
    page.locator("details table a").nth(1).click()
    restore_everything(page, page.url, into)
    shot(page, "story-06-restored")
    assert described(into / str(source).lstrip("/")) == second
    recover(repository, tmp_path / "recovered", SECOND_SECRET, tmp_path)
    assert described(tmp_path / "recovered" / str(source).lstrip("/")) == second

    page.goto(job_url + "edit/")
    page.get_by_label("Not encrypted").check()
    page.locator("#id_encryption_off_reason").fill("the repository is encrypted itself")
    expect_answer(page, "encryption-disabled")
    expect(page.locator("#job-preview")).to_contain_text("Writes a full")
    expect(page.locator("[data-code=not-encrypted-from-now]")).to_be_visible()
    shot(page, "story-07-disabled")
    press_save(page)
    run(page, job_url, kind="full", reason="Encryption was disabled.")
    page.goto(job_url)
    shot(page, "story-08-two-chains")

    make_user(page, "bob", "Backup operator")
    make_user(page, "vera", "Viewer")
    point_url = newest_point(page, job_url)
    download_works(page, point_url, source)
    bob = sign_in("bob", PEOPLE_PASSWORD)
    bob.goto("/jobs/")
    expect(bob.get_by_role("link", name="New job")).to_have_count(0)
    assert bob.goto("/jobs/new/").status == 403  # type: ignore[union-attr]
    vera = sign_in("vera", PEOPLE_PASSWORD)
    assert vera.goto(job_url).ok  # type: ignore[union-attr]
    assert vera.goto(point_url).ok  # type: ignore[union-attr]
    assert vera.request.get(f"{point_url}browse/").status == 403
    assert vera.request.get(f"{point_url}download/?path={str(source / 'secret').lstrip('/')}").status == 403

    page.goto("/audit/")
    expect(page.locator("main")).to_contain_text("Ledger files")
    shot(page, "story-09-audit")


def newest_point(page: Page, job_url: str) -> str:
    page.goto(job_url)
    page.get_by_text("As a table").click()
    page.locator("details table a").last.click()
    page.wait_for_url("**/points/**")
    return page.url


def download_works(page: Page, point_url: str, source: Path) -> None:
    folder = str(source).lstrip("/").replace("/", "%2F")
    page.goto(f"{point_url}browse/?path={folder}")
    with page.expect_download() as started:
        page.get_by_role("link", name='Download quoted "name".txt').click()
    assert started.value.path().read_text() == "to be downloaded"
