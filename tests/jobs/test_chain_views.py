"""The pages of chains that no job goes on with: the list, how long one is kept, its deletion, and detaching one."""

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from backupsite.models import AuditEvent
from jobs.expiring import end_of
from jobs.models import JobChain, JobChainState, State
from repositories.models import Chain, PointState
from tests.factories import (
    change_password,
    make_chain,
    make_job,
    make_password,
    make_pin,
    make_point,
    make_recovery_key,
    make_repository,
    make_session,
)
from tests.jobs.people import alice, bob, charlie, rita, text_of, vera

pytestmark = pytest.mark.django_db
EVER = {"keep": "ever"}
STRANGER = "ffffffff-0000-4000-8000-000000000000"


@pytest.fixture
def job():
    return make_job(password=make_password(name="autumn"), name="mail")


@pytest.fixture
def detached(job, tmp_path):
    """A detached chain with two points, in a folder that is there."""
    chain = make_chain(job, state=JobChainState.DETACHED, repository=make_repository(tmp_path))
    make_point(chain)
    make_point(chain)
    chain.folder.mkdir()
    return chain


def orphan(name):
    """Make a chain whose job was deleted."""
    job = make_job(name=name)
    chain = make_chain(job)
    make_point(chain)
    job.delete()
    return chain


def listed(client=None):
    return (client or alice()).get(reverse("lone_chains"))


class TestList:
    def test_says_of_each_chain_where_it_comes_from_and_what_opens_it(self, job, detached):
        change_password(job.password)
        make_point(detached)
        make_point(make_chain(job))
        gone = orphan("web")
        imported = orphan("old console")
        Chain.objects.filter(pk=imported.pk).update(imported_at=timezone.now(), damage="File 3 is a stranger.")
        plain = make_chain(job, state=JobChainState.DETACHED, encrypted=False)
        make_point(plain)
        shown = listed()
        text = text_of(shown)
        assert [one.chain for one in shown.context["chains"]] == [plain, imported, gone, detached]
        assert [str(one.origin) for one in shown.context["chains"]] == [
            "detached",
            "imported",
            "job-deleted",
            "detached",
        ]
        assert "which goes on without it" in text
        assert "Its job web was deleted" in text
        assert "File 3 is a stranger." in text
        assert [(key.name, key.points) for key in shown.context["chains"][3].keys] == [
            ("autumn, version 2", 1),
            ("autumn", 2),
        ]
        assert "4 chains that no job goes on with: 6 restore points" in text

    def test_names_strangers_and_recovery_keys(self, detached):
        slot = detached.points.first().slots.get()
        key = make_recovery_key(name="the safe")
        slot.pk, slot.kind, slot.record_uuid, slot.password, slot.recovery = None, "recovery", key.uuid, None, key
        slot.save()
        detached.points.last().slots.update(password=None, record_uuid=STRANGER, hint="like at home")
        names = [key.name for key in listed().context["chains"][0].keys]
        assert names == ["autumn", "unknown password “like at home”", "the safe"]

    def test_marks_what_goes_within_a_week(self, job, detached):
        Chain.objects.filter(pk=detached.pk).update(expires_at=timezone.now() + timedelta(days=6, hours=23))
        later = make_chain(job, state=JobChainState.DETACHED, expires_at=timezone.now() + timedelta(days=8))
        shown = listed()
        assert "1 chain goes within 7 days" in text_of(shown)
        assert [(one.chain, one.expiry.soon) for one in shown.context["chains"]] == [(later, False), (detached, True)]

    def test_shows_who_reads_and_what_is_going(self, detached):
        pin = make_pin(detached.points.first())
        assert reverse("session_detail", args=[pin.session.uuid]) in listed().content.decode()
        pin.delete()
        detached.points.update(state=PointState.DELETING)
        text = text_of(listed())
        assert "being deleted" in text
        assert "2 files left" in text
        assert "How long …" not in text

    def test_the_number_of_queries_does_not_grow(self, job, detached):
        client = alice()
        listed(client)
        with CaptureQueriesContext(
            connection,
        ) as few:
            listed(client)
        for number in range(5):
            make_pin(make_point(make_chain(job, state=JobChainState.DETACHED)))
            orphan(f"orphan {number}")
        with CaptureQueriesContext(connection) as many:
            assert len(listed(client).context["chains"]) == 11
        assert len(many) == len(few)

    def test_goes_on_with_older_ones(self, job, monkeypatch):
        monkeypatch.setattr("jobs.chain_views.PAGE", 2)
        chains = [make_chain(job, state=JobChainState.DETACHED) for _ in range(3)]
        first = listed()
        assert [one.chain for one in first.context["chains"]] == [chains[2], chains[1]]
        second = alice().get(first.context["older_url"])
        assert [one.chain for one in second.context["chains"]] == [chains[0]]

    def test_everybody_who_sees_jobs_sees_it_but_not_what_only_administrators_may(self, detached):
        text = text_of(listed(vera()))
        assert "Delete …" not in text
        assert ">Browse</a>" not in text
        assert ">Browse</a>" in text_of(listed(rita()))
        assert listed(charlie()).status_code == 403

    def test_without_any_it_says_what_would_stand_here(self, job):
        make_point(make_chain(job))
        assert "Every chain belongs to a job" in text_of(listed())


class TestExpiry:
    def test_is_set_and_taken_away(self, detached):
        address, client = reverse("chain_expiry", args=[detached.uuid]), alice()
        day = timezone.localdate() + timedelta(days=20)
        assert "Keep it for ever" in text_of(client.get(address))
        client.post(address, {"keep": "until", "until": day.isoformat()})
        detached.refresh_from_db()
        assert detached.expires_at == end_of(day)
        again = client.get(address)
        assert f'value="{day.isoformat()}"' in again.content.decode()
        client.post(address, {"keep": "ever", "until": day.isoformat()})
        detached.refresh_from_db()
        assert detached.expires_at is None

    @pytest.mark.parametrize(
        ("until", "words"), [("", "Choose the last day"), ("2020-02-02", "This day is over"), ("soon", "Enter a valid")]
    )
    def test_refuses_what_is_no_day_to_come(self, detached, until, words):
        shown = alice().post(reverse("chain_expiry", args=[detached.uuid]), {"keep": "until", "until": until})
        assert words in text_of(shown)
        detached.refresh_from_db()
        assert detached.expires_at is None

    def test_of_a_chain_that_a_job_owns_sends_to_detaching(self, job):
        chain = make_chain(job)
        address = reverse("chain_expiry", args=[chain.uuid])
        assert reverse("chain_detach", args=[job.uuid, chain.uuid]) in alice().get(address).content.decode()
        day = timezone.localdate() + timedelta(days=20)
        alice().post(address, {"keep": "until", "until": day.isoformat()})
        chain.refresh_from_db()
        assert chain.expires_at is None

    def test_is_refused_to_others(self, detached):
        assert bob().get(reverse("chain_expiry", args=[detached.uuid])).status_code == 403


class TestDelete:
    def test_wants_the_beginning_of_the_id(self, detached):
        address, client = reverse("chain_delete", args=[detached.uuid]), alice()
        assert "Type the id exactly" in text_of(client.post(address, {"name": "mail"}))
        assert detached.points.sealed().count() == 2
        client.post(address, {"name": str(detached.uuid)[:8]})
        assert not detached.points.sealed().exists()
        assert AuditEvent.objects.get(action="delete chain").before["points"] == 2

    def test_is_refused_while_pinned_and_names_the_session(self, detached):
        pin = make_pin(detached.points.first())
        address, client = reverse("chain_delete", args=[detached.uuid]), alice()
        assert reverse("session_detail", args=[pin.session.uuid]) in client.get(address).content.decode()
        assert "is in use by the restore" in text_of(client.post(address, {"name": str(detached.uuid)[:8]}))
        assert detached.points.sealed().count() == 2

    def test_of_a_chain_that_a_job_owns_deletes_nothing(self, job):
        chain = make_chain(job)
        make_point(chain)
        shown = alice().post(reverse("chain_delete", args=[chain.uuid]), {"name": str(chain.uuid)[:8]})
        assert "Detach it" in text_of(shown)
        assert chain.points.sealed().count() == 1

    def test_is_refused_to_others(self, detached):
        address = reverse("chain_delete", args=[detached.uuid])
        assert rita().post(address, {"name": str(detached.uuid)[:8]}).status_code == 403
        assert detached.points.sealed().count() == 2


class TestDetach:
    def test_takes_a_chain_out_of_the_retention(self, job):
        chain = make_chain(job, encrypted=False, state=JobChainState.PREVIOUS, delete_after_full=True)
        make_point(chain)
        client = alice()
        address = reverse("chain_detach", args=[job.uuid, chain.uuid])
        assert "They are not encrypted" in text_of(client.get(address))
        client.post(address, EVER)
        link = JobChain.objects.get(chain=chain)
        assert (link.state, link.delete_after_full) == (JobChainState.DETACHED, False)

    def test_offers_the_expiry_at_once(self, job):
        chain = make_chain(job)
        day = timezone.localdate() + timedelta(days=30)
        address = reverse("chain_detach", args=[job.uuid, chain.uuid])
        shown = alice().post(address, {"keep": "until", "until": day.isoformat()}, follow=True)
        assert f"go after {day:%-d %B %Y}" in text_of(shown)
        chain.refresh_from_db()
        assert chain.expires_at == end_of(day)
        event = AuditEvent.objects.get(action="detach chain")
        assert event.after == {"state": "detached", "kept until": day.isoformat()}

    def test_a_day_that_is_over_is_refused(self, job):
        chain = make_chain(job)
        day = timezone.localdate() - timedelta(days=1)
        address = reverse("chain_detach", args=[job.uuid, chain.uuid])
        assert "This day is over" in text_of(alice().post(address, {"keep": "until", "until": day.isoformat()}))
        assert JobChain.objects.get(chain=chain).state == JobChainState.CURRENT

    def test_waits_for_a_session_that_writes_the_chain(self, job):
        chain = make_chain(job)
        make_session(job, state=State.RUNNING)
        assert alice().post(reverse("chain_detach", args=[job.uuid, chain.uuid]), EVER).status_code == 200
        assert JobChain.objects.get(chain=chain).state == JobChainState.CURRENT

    def test_knows_only_the_chains_of_its_job(self, job):
        other = make_chain(make_job(password=make_password()))
        assert alice().post(reverse("chain_detach", args=[job.uuid, other.uuid]), EVER).status_code == 404

    def test_is_refused_to_others(self, job):
        chain = make_chain(job)
        assert bob().post(reverse("chain_detach", args=[job.uuid, chain.uuid]), EVER).status_code == 403
