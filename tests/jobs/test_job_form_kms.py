"""Jobs that are encrypted with a KMS key: what the form offers, previews and saves, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs import job_form_views
from jobs.consequences import Effect
from jobs.job_preview import preview_of
from jobs.models import Encryption, Job
from jobs.planning import Reason, plan
from jobs.situation import situation_of
from keys.kms_servers import declare_lost, key_for
from keys.models import KeyState, KmsKey, KmsKeyVersion, KmsServer, Outage, PasswordRecord
from keys.sealing import check_vouched_row, vouch_for
from repositories.models import Chain
from tests.factories import (
    add_kms_version,
    change_password,
    make_chain,
    make_job,
    make_kms_key,
    make_kms_server,
    make_password,
    make_point,
    make_recovery_key,
    make_repository,
)
from tests.jobs.people import alice
from tests.jobs.proxy_answers import answer_at_once
from tests.jobs.test_job_form import NEW, preview_digest, save, typed, typed_of
from tests.kms.server import KmipServer

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return answer_at_once(monkeypatch)


@pytest.fixture
def source(tmp_path: Any) -> Any:
    folder = tmp_path / "ledger"
    folder.mkdir()
    return folder


@pytest.fixture
def server(kmip_server: KmipServer) -> KmsServer:
    return make_kms_server(kmip_server, name="vault", answered_at=timezone.now())


@pytest.fixture
def data(source: Any, server: KmsServer) -> dict[str, Any]:
    repository = make_repository()
    return typed(source, repository=str(repository.uuid), encryption="kms", kms_server=str(server.uuid))


def effects(job: Job) -> set[str]:
    return {consequence.code for consequence in preview_of(job).consequences}


def set_key(job: Job, wanted: PasswordRecord | KmsKey | None) -> None:
    job.password = wanted if isinstance(wanted, PasswordRecord) else None
    job.kms_key = wanted if isinstance(wanted, KmsKey) else None
    kinds = {PasswordRecord: Encryption.PASSWORD, KmsKey: Encryption.KMS}
    job.encryption = kinds.get(type(wanted), Encryption.OFF)


# The form


def test_without_a_server_nothing_of_a_kms_is_offered() -> None:
    page = alice().get(reverse(NEW)).content.decode()
    assert 'value="kms"' not in page
    assert "strict_custody" not in page
    make_kms_server()
    assert 'value="kms"' in alice().get(reverse(NEW)).content.decode()


def test_the_key_is_made_when_the_job_is_saved_and_not_before(data: dict[str, Any], server: KmsServer) -> None:
    client = alice()
    page = client.post(reverse(NEW), {**data, "action": "preview"})
    assert page.context["preview"].plan.kind == "full"
    assert {c.code for c in page.context["preview"].consequences} >= {Effect.NO_RECOVERY_KEY, Effect.KMS_OUTAGE}
    assert not KmsKey.objects.exists()
    assert save(client, reverse(NEW), data).status_code == 302
    job = Job.objects.get()
    assert (job.encryption, job.password, job.kms_key.server, job.kms_key.owner) == ("kms", None, server, job.uuid)
    check_vouched_row(job, "protection_proof")
    check_vouched_row(job.kms_key.newest(), "proof")
    assert AuditEvent.objects.get(action="KMS key created").after["job"] == job.name
    assert AuditEvent.objects.get(action="create job").after["kms"] == "vault"


def test_saved_again_it_keeps_its_key(data: dict[str, Any]) -> None:
    client = alice()
    save(client, reverse(NEW), data)
    job = Job.objects.get()
    again = {**data, "version": str(job.version), "keep_points": "9"}
    assert save(client, reverse("job_edit", args=[job.uuid]), again).status_code == 302
    assert KmsKeyVersion.objects.count() == 1
    assert Job.objects.get().keep_points == 9


def test_a_server_that_does_not_answer_saves_nothing(data: dict[str, Any], kmip_server: KmipServer) -> None:
    client = alice()
    digest = preview_digest(client, reverse(NEW), data)
    kmip_server.stop()
    try:
        response = client.post(reverse(NEW), {**data, "digest": digest})
    finally:
        kmip_server.start_again()
    assert response.status_code == 200
    assert "Nothing was saved" in response.context["form"].errors["kms_server"][0]
    assert "vault" in response.context["form"].errors["kms_server"][0]
    assert not Job.objects.exists()
    assert not KmsKey.objects.exists()
    assert response.context["form"]["name"].value() == data["name"]


def test_an_answer_that_changed_makes_no_key(data: dict[str, Any]) -> None:
    response = alice().post(reverse(NEW), {**data, "digest": "0" * 64})
    assert response.context["changed"]
    assert not KmsKey.objects.exists()


def test_an_answer_that_changes_while_the_key_is_made_is_shown_first(
    source: Any, server: KmsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(sources=[str(source)])
    chain = make_chain(job)
    make_point(chain)
    address = reverse("job_edit", args=[job.uuid])
    data = typed_of(job, encryption="kms", kms_server=str(server.uuid))

    def key_for_while_the_chain_breaks(*args: Any, **fields: Any) -> KmsKey:
        made = key_for(*args, **fields)
        Chain.objects.filter(pk=chain.pk).update(damage="2 is missing")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(job_form_views, "key_for", key_for_while_the_chain_breaks)
        response = save(alice(), address, data)
    assert response.context["changed"]
    assert response.context["preview"].plan.reason == Reason.CHAIN_DAMAGED
    assert Job.objects.get().encryption == Encryption.PASSWORD
    assert AuditEvent.objects.filter(action="KMS key created").count() == 1  # it stays, and is the job's next time
    assert save(alice(), address, data).status_code == 302
    assert Job.objects.get().kms_key == KmsKey.objects.get()
    assert KmsKeyVersion.objects.count() == 1


def test_a_server_has_to_be_chosen(data: dict[str, Any]) -> None:
    assert alice().post(reverse(NEW), {**data, "kms_server": ""}).context["form"].errors["kms_server"]


def test_strict_custody_needs_a_way_back(data: dict[str, Any], server: KmsServer) -> None:
    client, strict = alice(), {**data, "strict_custody": "on"}
    assert "way back" in save(client, reverse(NEW), strict).context["form"].errors["strict_custody"][0]
    make_recovery_key()
    save(client, reverse(NEW), strict)
    assert Job.objects.get().strict_custody


def test_strict_custody_is_fine_where_sessions_fail_without_the_server(data: dict[str, Any], server: KmsServer) -> None:
    server.outage = Outage.FAIL
    server.proof = vouch_for(server, "proof")
    server.save()
    save(alice(), reverse(NEW), {**data, "strict_custody": "on"})
    assert Job.objects.get().strict_custody


def test_what_belongs_to_another_way_is_cleared(source: Any, server: KmsServer, kmip_server: KmipServer) -> None:
    make_recovery_key()
    job = make_job(sources=[str(source)], encryption="kms", kms_key=make_kms_key(server, kmip_server))
    record = make_password()
    fields = {"encryption": "password", "password": str(record.uuid), "strict_custody": "on", "ask_password": "on"}
    save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, **fields))
    job.refresh_from_db()
    assert (job.kms_key, job.password, job.strict_custody, job.ask_password) == (None, record, False, True)


def test_a_key_that_is_gone_for_good_is_made_anew_on_save(
    source: Any, server: KmsServer, kmip_server: KmipServer
) -> None:
    job = make_job(sources=[str(source)])
    key = make_kms_key(server, kmip_server, owner=job.uuid)
    declare_lost(key.newest())
    fields = {"encryption": "kms", "kms_server": str(server.uuid)}
    save(alice(), reverse("job_edit", args=[job.uuid]), typed_of(job, **fields))
    job.refresh_from_db()
    assert (job.kms_key, job.kms_key.newest().number) == (key, 2)


# The facts, and the planner over them


SETTINGS = ("none", "A", "B", "X", "Y")


@pytest.mark.parametrize("before", SETTINGS)
@pytest.mark.parametrize("after", SETTINGS)
def test_each_pair_of_settings(before: str, after: str) -> None:
    job = make_job(encryption=Encryption.OFF)
    keys = {name: make_password() for name in "AB"} | {name: make_kms_key(owner=job.uuid) for name in "XY"}
    set_key(job, keys.get(before))
    job.save()
    make_point(make_chain(job))
    set_key(job, keys.get(after))
    planned = plan(situation_of(job))
    expected: tuple[str, Reason] = ("incremental", Reason.KEY_CHANGED)
    if before == after:
        expected = ("incremental", Reason.CHANGES_SINCE_PARENT)
    elif "none" in (before, after):
        expected = ("full", Reason.ENCRYPTION_ENABLED if before == "none" else Reason.ENCRYPTION_DISABLED)
    assert (planned.kind, planned.reason) == expected
    if expected[1] == Reason.KEY_CHANGED:
        assert (planned.params["old_name"], planned.params["name"]) == (str(keys[before]), str(keys[after]))


def kms_job(points: int = 2) -> Job:
    key = make_kms_key()
    job = make_job(encryption=Encryption.KMS, kms_key=key)
    chain = make_chain(job)
    for _ in range(points):
        make_point(chain)
    return job


def test_a_rotated_key_goes_on_under_the_new_version() -> None:
    job = kms_job()
    add_kms_version(job.kms_key)
    planned = plan(situation_of(job))
    assert (planned.kind, planned.reason, planned.params["same_record"]) == ("incremental", Reason.KEY_CHANGED, True)


@pytest.mark.parametrize("state", [KeyState.DESTROYED, KeyState.LOST])
def test_a_key_that_is_gone_for_good_begins_a_new_chain(state: KeyState) -> None:
    job = kms_job()
    KmsKeyVersion.objects.update(state=state)
    planned = plan(situation_of(job))
    assert (planned.kind, planned.new_chain, planned.reason) == ("full", True, Reason.KEY_GONE)
    assert (planned.params["kind"], planned.params["points"]) == ("kms", 2)
    assert Effect.KEY_IS_GONE in effects(job)


@pytest.mark.parametrize("state", [KeyState.DISABLED, KeyState.SCHEDULED, KeyState.GONE])
def test_a_key_that_is_merely_out_of_reach_begins_nothing(state: KeyState) -> None:
    job = kms_job()
    KmsKeyVersion.objects.update(state=state)
    assert plan(situation_of(job)).reason == Reason.CHANGES_SINCE_PARENT


def test_a_password_that_was_declared_lost_begins_a_new_chain_under_the_next_one() -> None:
    job = make_job()
    make_point(make_chain(job))
    PasswordRecord.objects.update(lost_at=timezone.now())
    job.refresh_from_db()
    assert plan(situation_of(job)).reason == Reason.KEY_GONE
    assert Effect.KEY_IS_GONE in effects(job)
    change_password(job.password)
    job.refresh_from_db()
    assert plan(situation_of(job)).reason == Reason.KEY_GONE
    assert Effect.KEY_IS_GONE not in effects(job)


def test_a_second_slot_that_opens_keeps_the_chain() -> None:
    job = make_job()
    point = make_point(make_chain(job))
    point.slots.create(kind="kms", record_uuid=(key := make_kms_key()).uuid, version=1, kms=key.newest())
    PasswordRecord.objects.update(lost_at=timezone.now())
    job.refresh_from_db()
    assert plan(situation_of(job)).reason == Reason.CHANGES_SINCE_PARENT


def test_what_a_kms_job_depends_on_is_said() -> None:
    job = kms_job()
    assert effects(job) >= {Effect.NO_RECOVERY_KEY, Effect.KMS_OUTAGE}
    make_recovery_key()
    KmsServer.objects.update(releases_private_keys=True)
    job = Job.objects.select_related("kms_key__server").get(pk=job.pk)
    job.strict_custody = True
    found = effects(job)
    assert found >= {Effect.KMS_RELEASES_KEYS, Effect.STRICT_CUSTODY}
    assert not {Effect.NO_RECOVERY_KEY, Effect.KMS_OUTAGE} & found  # no session goes on without the server
