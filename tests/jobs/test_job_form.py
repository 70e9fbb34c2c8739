"""The job form: what it refuses, what it previews, and that nothing is saved but what was shown."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest
from django.urls import reverse

from backupsite.models import AuditEvent
from jobs.models import Encryption, Job, JobChain, JobChainState, State
from keys import passwords
from keys.models import PasswordRecord
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_password,
    make_point,
    make_repository,
    make_session,
)
from tests.jobs.people import HTMX, alice, bob, text_of, vera
from tests.jobs.proxy_answers import answer_at_once, be_silent

pytestmark = pytest.mark.django_db
NEW = "job_new"
SECRET = "the blue bicycle of my aunt"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "ledger"
    folder.mkdir()
    return folder


def typed(source: Any, **fields: Any) -> dict[str, Any]:
    """Return what a browser posts for a complete new job."""
    return {
        "name": "Ledger files",
        "sources": str(source),
        "include": "",
        "exclude": "*.tmp",
        "level": "fast",
        "encryption": "password",
        "schedule_kind": "daily",
        "schedule_time": "02:00",
        "time_zone": "Europe/Berlin",
        "keep_points": "7",
        "action": "save",
        **fields,
    }


def typed_of(job: Job, **fields: Any) -> dict[str, Any]:
    """Return what a browser posts that has the form of a saved job open and changes some fields."""
    return {
        **typed(job.sources[0]),
        "name": job.name,
        "repository": str(job.repository.uuid),
        "encryption": job.encryption,
        "password": str(job.password.uuid) if job.password else "",
        "keep_points": str(job.keep_points),
        "schedule_kind": "manual",
        "version": str(job.version),
        **fields,
    }


def preview_digest(client: Any, address: str, data: dict[str, Any]) -> str:
    """Press Preview, and return the digest that the page then carries."""
    response = client.post(address, {**data, "action": "preview"})
    return response.context["preview"].digest


def save(client: Any, address: str, data: dict[str, Any]) -> Any:
    return client.post(address, {**data, "digest": preview_digest(client, address, data)})


class TestRights:
    def test_only_administrators_make_and_edit_jobs(self, source):
        job = make_job()
        for who in (bob, vera):
            for address in (reverse(NEW), reverse("job_edit", args=[job.uuid])):
                assert who().get(address).status_code == 403
                assert who().post(address, typed(source)).status_code == 403
        assert Job.objects.count() == 1

    def test_the_wrong_method_is_refused(self):
        assert alice().put(reverse(NEW)).status_code == 405

    def test_a_page_with_secrets_is_kept_nowhere(self):
        assert "no-store" in alice().get(reverse(NEW))["Cache-Control"]


class TestNewJob:
    def test_is_saved_with_a_password_that_exists(self, source):
        repository, record = make_repository(), make_password()
        data = typed(source, repository=str(repository.uuid), password=str(record.uuid), include="*.pdf\n\n*.txt")
        response = save(alice(), reverse(NEW), data)
        job = Job.objects.get()
        assert response["Location"] == reverse("job_detail", args=[job.uuid])
        assert (job.sources, job.include, job.exclude) == ([str(source)], ["*.pdf", "*.txt"], ["*.tmp"])
        assert (job.password, job.repository, job.keep_points) == (record, repository, 7)
        assert (job.schedule_kind, f"{job.schedule_time:%H:%M}", job.time_zone) == ("daily", "02:00", "Europe/Berlin")
        assert AuditEvent.objects.get(action="create job").after["name"] == "Ledger files"

    def test_makes_a_password_in_the_same_form(self, source):
        data = typed(
            source,
            repository=str(make_repository().uuid),
            password="new",
            new_name="finance",
            new_hint="bicycle",
            new_password=SECRET,
            new_password_again=SECRET,
        )
        save(alice(), reverse(NEW), data)
        job = Job.objects.get()
        assert (job.password.name, job.password.hint) == ("finance", "bicycle")
        assert job.password.newest().number == 1
        event = AuditEvent.objects.get(action="password created")
        assert event.after == {"name": "finance", "hint": "bicycle", "strength": job.password.newest().strength}

    def test_a_weak_password_is_taken_only_when_that_is_wanted(self, source):
        weak = "finance-2026"
        data = typed(
            source,
            repository=str(make_repository().uuid),
            password="new",
            new_name="finance",
            new_password=weak,
            new_password_again=weak,
        )
        page = alice().post(reverse(NEW), data).content.decode()
        assert "This password is weak" in page and 'name="new_weak_ok"' in page and f'value="{weak}"' not in page
        assert not PasswordRecord.objects.exists()
        save(alice(), reverse(NEW), {**data, "new_weak_ok": "on"})
        assert Job.objects.get().password.newest().strength < 3

    def test_nobody_is_asked_about_a_good_password(self, source):
        strong = typed(source, name="", password="new", new_name="a", new_password=SECRET, new_password_again=SECRET)
        assert "new_weak_ok" not in alice().post(reverse(NEW), strong).content.decode()

    def test_a_refused_form_makes_no_password(self, source):
        data = typed(
            source,
            repository=str(make_repository().uuid),
            password="new",
            new_name="finance",
            new_password=SECRET,
            new_password_again=SECRET,
            digest="0" * 64,
        )
        response = alice().post(reverse(NEW), data)
        assert response.status_code == 200
        assert not PasswordRecord.objects.exists()

    def test_secrets_are_never_rendered_again(self, source):
        data = typed(source, password="new", new_password=SECRET, new_password_again=SECRET + "!")
        for action in ("save", "preview", "open:Lw=="):
            page = alice().post(reverse(NEW), {**data, "action": action}).content.decode()
            assert SECRET not in page

    def test_what_was_typed_stays(self, source):
        response = alice().post(reverse(NEW), typed(source, name="", exclude="*.iso", keep_points="33"))
        assert response.status_code == 200
        page = response.content.decode()
        assert "*.iso" in page and 'value="33"' in page and str(source) in page

    @pytest.mark.parametrize(
        ("fields", "field"),
        [
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"sources": ""}, "sources"),
            ({"sources": "relative/path"}, "sources"),
            ({"sources": "/srv\n/srv/inside"}, "sources"),
            ({"sources": "/srv/\x1b[31m"}, "sources"),
            ({"exclude": "*.tmp\n/"}, "exclude"),
            ({"include": "!"}, "include"),
            ({"repository": ""}, "repository"),
            ({"repository": "6a3f1b4e-0000-4000-8000-000000000000"}, "repository"),
            ({"repository": "nonsense"}, "repository"),
            ({"level": "zip"}, "level"),
            ({"encryption": "rot13"}, "encryption"),
            ({"password": ""}, "password"),
            ({"password": "nonsense"}, "password"),
            ({"schedule_time": ""}, "schedule_time"),
            ({"schedule_time": "25:00"}, "schedule_time"),
            ({"schedule_kind": "weekly"}, "schedule_weekdays"),
            ({"schedule_kind": "weekly", "schedule_weekdays": ["7"]}, "schedule_weekdays"),
            ({"time_zone": "Europe/Atlantis"}, "time_zone"),
            ({"keep_points": "0"}, "keep_points"),
            ({"keep_points": "many"}, "keep_points"),
            ({"password": "new", "new_name": "", "new_password": SECRET, "new_password_again": SECRET}, "new_name"),
            (
                {"password": "new", "new_name": "a", "new_password": "short", "new_password_again": "short"},
                "new_password",
            ),
            (
                {"password": "new", "new_name": "a", "new_password": SECRET, "new_password_again": SECRET + " "},
                "new_password_again",
            ),
            (
                {
                    "password": "new",
                    "new_name": "a",
                    "new_password": SECRET,
                    "new_password_again": SECRET,
                    "new_hint": f"it is {SECRET}",
                },
                "new_hint",
            ),
        ],
    )
    def test_bad_input_is_named_at_its_field(self, source, fields, field):
        good = typed(source, repository=str(make_repository().uuid), password=str(make_password().uuid))
        response = alice().post(reverse(NEW), {**good, **fields})
        assert response.status_code == 200
        assert list(response.context["form"].errors) == [field]
        assert not Job.objects.exists()

    def test_a_taken_name_is_refused(self, source):
        job = make_job(name="Ledger files")
        response = alice().post(reverse(NEW), typed_of(job, version=""))
        assert "name" in response.context["form"].errors

    def test_the_password_is_taken_as_typed(self, source):
        data = typed(source, repository=str(make_repository().uuid), password="new", new_name="finance")
        save(alice(), reverse(NEW), {**data, "new_password": "  blanks  ", "new_password_again": "  blanks  "})
        record = PasswordRecord.objects.get()
        assert passwords.verify(record, "  blanks  ")
        assert not passwords.verify(record, "blanks")


class TestSources:
    def test_a_directory_that_does_not_exist_is_refused(self, source, asked):
        data = typed(source / "nowhere", repository=str(make_repository().uuid), password=str(make_password().uuid))
        response = save(alice(), reverse(NEW), data)
        assert "does not exist on the proxy" in str(response.context["form"].errors["sources"])
        assert "check_sources" in asked

    def test_a_source_inside_its_repository_is_refused(self, source):
        repository = make_repository(source.parent)
        data = typed(source, repository=str(repository.uuid), password=str(make_password().uuid))
        response = save(alice(), reverse(NEW), data)
        assert "cannot hold a backup of itself" in str(response.context["form"].errors["sources"])

    def test_a_repository_inside_a_source_is_said_and_saved(self, source):
        repository = make_repository(source / "repository")
        data = typed(source, repository=str(repository.uuid), password=str(make_password().uuid))
        client = alice()
        response = save(client, reverse(NEW), data)
        assert response.status_code == 302
        assert f"The repository {source / 'repository'} is left out" in text_of(client.get(response["Location"]))

    def test_notes_are_said_before_anything_is_saved(self, source):
        repository = make_repository(source / "repository")
        data = typed(source, repository=str(repository.uuid), password=str(make_password().uuid))
        client = alice()
        fragment = text_of(client.post(reverse(NEW), {**data, "action": "check"}, headers=HTMX))
        assert "is left out of" in fragment and "<html" not in fragment
        assert "is left out of" in text_of(client.post(reverse(NEW), {**data, "action": "preview"}))
        assert not Job.objects.exists()

    def test_nothing_is_asked_before_there_is_a_repository(self, source, asked):
        alice().post(reverse(NEW), typed(source, action="check"), headers=HTMX)
        assert not asked

    def test_a_silent_proxy_stops_the_save_until_told_otherwise(self, source, monkeypatch):
        be_silent(monkeypatch)
        data = typed(source, repository=str(make_repository().uuid), password=str(make_password().uuid))
        client = alice()
        response = save(client, reverse(NEW), data)
        assert "did not answer" in text_of(response)
        assert not Job.objects.exists()
        assert save(client, reverse(NEW), {**data, "unchecked": "on"}).status_code == 302
        assert Job.objects.exists()


class TestPicker:
    def value(self, path: Any) -> str:
        return base64.urlsafe_b64encode(bytes(path)).decode()

    def test_lists_the_folders_of_the_proxy(self, source):
        (source / "invoices").mkdir()
        response = alice().post(reverse(NEW), typed(source, action=f"open:{self.value(source)}"))
        assert response.status_code == 200
        assert "invoices" in text_of(response)
        assert not response.context["form"].errors

    def test_adds_a_folder_to_what_is_there(self, source):
        inner = source / "in voices"
        inner.mkdir()
        response = alice().post(reverse(NEW), typed("/etc", action=f"add:{self.value(inner)}"), headers=HTMX)
        assert f"/etc\n{inner}" in response.content.decode()
        assert b"<html" not in response.content

    def test_shows_names_that_no_form_can_hold_without_offering_them(self, source):
        os.mkdir(bytes(source) + b"/caf\xe9")
        os.mkdir(bytes(source) + b"/<b>new\nline")
        response = alice().post(reverse(NEW), typed(source, action=f"open:{self.value(source)}"))
        page = text_of(response)
        assert "caf\\xe9" in page
        assert "&lt;b&gt;new" in page and "<b>new" not in page
        assert page.count("choose the folder above it") == 2

    def test_says_why_a_folder_cannot_be_listed(self, source):
        response = alice().post(reverse(NEW), typed(source, action=f"open:{self.value(source / 'nowhere')}"))
        assert "does not exist on the proxy" in text_of(response)

    @pytest.mark.parametrize("value", ["", "!!!", "Li4v", "AAAA"])
    def test_nonsense_opens_the_top(self, source, value):
        response = alice().post(reverse(NEW), typed(source, action=f"open:{value}"))
        assert response.context["picker"]["path"] == "/"


class TestPreview:
    def test_a_new_job_begins_with_a_full(self, source):
        data = typed(source, repository=str(make_repository().uuid), password=str(make_password().uuid))
        page = text_of(alice().post(reverse(NEW), {**data, "action": "preview"}, headers=HTMX))
        assert "<html" not in page
        assert "Writes a full, and starts a new chain" in page
        assert "It is the first session of this job" in page
        assert not Job.objects.exists()

    def test_without_a_repository_or_a_password_nothing_is_claimed(self, source):
        assert "Not known yet" in text_of(alice().post(reverse(NEW), typed(source, action="preview")))

    def test_enabling_encryption_is_a_full_and_names_what_stays_plain(self):
        job = make_job(encryption="off")
        make_point(make_chain(job), size_bytes=3 * 2**20)
        data = typed_of(job, encryption="password", password=str(make_password().uuid), action="preview")
        page = text_of(alice().post(reverse("job_edit", args=[job.uuid]), data))
        assert "Writes a full, and starts a new chain" in page
        assert "Encryption was enabled." in page
        assert "stays readable without a key" in page and "3 MiB" in page
        for answer in ("Keep them until", "Detach them now", "Delete them after"):
            assert answer in page

    def test_a_changed_password_is_an_incremental_under_the_new_key(self):
        job = make_job()
        make_point(make_chain(job))
        change_password(job.password)
        page = text_of(alice().get(reverse("job_edit", args=[job.uuid])))
        assert "Writes an incremental" in page
        assert f"The password {job.password.name} was changed." in page
        assert "The new key opens the whole chain" in page and "Earlier points keep their old key" in page

    def test_another_password_record_is_an_incremental_too(self):
        job = make_job()
        make_point(make_chain(job))
        other = make_password()
        page = text_of(
            alice().post(
                reverse("job_edit", args=[job.uuid]), typed_of(job, password=str(other.uuid), action="preview")
            )
        )
        assert "Writes an incremental" in page
        assert f"changed from {job.password.name} to {other.name}" in page

    def test_a_password_still_to_be_made_is_previewed_by_its_name(self):
        job = make_job()
        make_point(make_chain(job))
        data = typed_of(job, password="new", new_name="finance 2027", action="preview")
        assert f"changed from {job.password.name} to finance 2027" in text_of(
            alice().post(reverse("job_edit", args=[job.uuid]), data)
        )

    def test_disabling_warns_and_says_what_stays_encrypted(self):
        job = make_job()
        make_point(make_chain(job))
        page = text_of(
            alice().post(reverse("job_edit", args=[job.uuid]), typed_of(job, encryption="off", action="preview"))
        )
        assert "Encryption is being disabled" in page
        assert "The existing chain stays encrypted" in page
        assert "Encryption was disabled." in page

    def test_a_running_session_keeps_its_settings(self):
        job = make_job()
        make_session(job, state=State.RUNNING)
        assert "keeps the settings that it began with" in text_of(alice().get(reverse("job_edit", args=[job.uuid])))

    def test_says_how_many_points_stay(self):
        job = make_job(keep_points=7)
        assert "Up to 14 restore points stay" in text_of(alice().get(reverse("job_edit", args=[job.uuid])))


class TestEdit:
    def test_saves_and_records_what_changed(self, source):
        job = make_job(sources=[str(source)])
        save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, name="Another", keep_points="3"))
        job.refresh_from_db()
        assert (job.name, job.keep_points, job.version) == ("Another", 3, 2)
        event = AuditEvent.objects.get(action="edit job")
        assert event.before["keep_points"] == 14 and event.after["keep_points"] == 3
        assert "sources" not in event.after

    def test_disabling_needs_a_reason_and_is_a_grave_event(self, source):
        job = make_job(sources=[str(source)])
        address = reverse("job_edit", args=[job.uuid])
        client = alice()
        response = save(client, address, typed_of(job, encryption="off"))
        assert "encryption_off_reason" in response.context["form"].errors
        save(client, address, typed_of(job, encryption="off", encryption_off_reason="public data"))
        job.refresh_from_db()
        assert (job.encryption, job.password, job.encryption_off_reason) == (Encryption.OFF, None, "public data")
        assert AuditEvent.objects.get(action="disable encryption").severity == "high"

    def test_saving_what_was_changed_outside_is_said_and_a_grave_event(self, source):
        job = make_job(sources=[str(source)])
        Job.objects.update(password=make_password())  # not by this console
        job.refresh_from_db()
        response = save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, keep_points="9"))
        assert response.status_code == 302
        event = AuditEvent.objects.get(action="edit job")
        assert (event.severity, event.after["was"]) == ("high", "changed outside this console")

    def test_a_repository_that_takes_encrypted_backups_only_refuses_plain_ones(self, source):
        job = make_job(encryption="off", sources=[str(source)], repository=make_repository(requires_encryption=True))
        response = save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job))
        assert "encryption" in response.context["form"].errors
        assert "takes encrypted backups only" in text_of(response)

    def test_an_answer_that_changed_comes_back_and_nothing_is_saved(self, source):
        job = make_job(sources=[str(source)])
        client, address = alice(), reverse("job_edit", args=[job.uuid])
        shown = preview_digest(client, address, typed_of(job))
        make_point(make_chain(job))  # a session ended meanwhile
        response = client.post(address, typed_of(job, name="Another", digest=shown))
        assert response.status_code == 200
        page = text_of(response)
        assert "The answer has changed" in page
        assert "Writes an incremental" in page
        assert 'value="Another"' in page
        job.refresh_from_db()
        assert job.name != "Another"
        again = client.post(address, typed_of(job, name="Another", digest=response.context["preview"].digest))
        assert again.status_code == 302

    def test_two_editors_notice_each_other(self, source):
        job = make_job(sources=[str(source)])
        address = reverse("job_edit", args=[job.uuid])
        first, second = alice(), alice()
        opened = typed_of(job)
        assert save(first, address, {**opened, "name": "First"}).status_code == 302
        response = save(second, address, {**opened, "name": "Second"})
        assert "Somebody else saved this job meanwhile" in text_of(response)
        job.refresh_from_db()
        assert job.name == "First"
        again = {**opened, "name": "Second", "version": response.context["form"]["version"].value()}
        assert save(second, address, again).status_code == 302

    @pytest.mark.parametrize(
        ("answer", "state", "deleted"),
        [
            ("keep", JobChainState.CURRENT, False),
            ("detach", JobChainState.DETACHED, False),
            ("delete", JobChainState.CURRENT, True),
        ],
    )
    def test_the_old_chain_gets_the_answer(self, source, answer, state, deleted):
        job = make_job(encryption="off", sources=[str(source)])
        make_point(chain := make_chain(job))
        data = typed_of(job, encryption="password", password=str(make_password().uuid), old_chain=answer)
        assert save(alice(), reverse("job_edit", args=[job.uuid]), data).status_code == 302
        link = JobChain.objects.get(chain=chain)
        assert (link.state, link.delete_after_full) == (state, deleted)

    def test_a_later_save_keeps_the_answer_about_the_old_chain(self, source):
        """The chain still waits for its deletion: renaming the job takes nothing back."""
        job = make_job(encryption="off", sources=[str(source)])
        make_point(chain := make_chain(job))
        address, client = reverse("job_edit", args=[job.uuid]), alice()
        data = typed_of(job, encryption="password", password=str(make_password().uuid), old_chain="delete")
        assert save(client, address, data).status_code == 302
        event = AuditEvent.objects.get(action="old chain answered")
        assert (event.severity, event.after) == ("high", {"answer": "delete", "chains": [str(chain.uuid)]})
        assert client.get(address).context["form"].initial["old_chain"] == "delete"
        for number, old_chain in enumerate(({}, {"old_chain": "delete"})):
            job.refresh_from_db()
            data = {**typed_of(job, name=f"Name {number}"), **old_chain}
            assert save(client, address, data).status_code == 302
            assert JobChain.objects.get(chain=chain).delete_after_full
        assert AuditEvent.objects.filter(action="old chain answered").count() == 1

    def test_a_password_made_while_editing_is_used(self, source):
        job = make_job(sources=[str(source)])
        make_point(make_chain(job))
        data = typed_of(job, password="new", new_name="next", new_password=SECRET, new_password_again=SECRET)
        assert save(alice(), reverse("job_edit", args=[job.uuid]), data).status_code == 302
        job.refresh_from_db()
        assert job.password.name == "next"

    def test_the_old_password_survives_a_job_that_was_renamed_only(self, source):
        job = make_job(sources=[str(source)])
        record = job.password
        save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, name="Another"))
        job.refresh_from_db()
        assert job.password == record

    def test_gives_page_and_fragment(self):
        job = make_job()
        address = reverse("job_edit", args=[job.uuid])
        client = alice()
        assert b"<html" in client.get(address).content
        fragment = client.post(address, typed_of(job, action="preview"), headers=HTMX).content
        assert b"<html" not in fragment and b'id="job-preview"' in fragment

    def test_hostile_text_is_escaped(self):
        job = make_job(name="<b>bold</b>", exclude=["</textarea><script>"])
        page = alice().get(reverse("job_edit", args=[job.uuid])).content.decode()
        assert "<b>bold" not in page and "</textarea><script>" not in page
