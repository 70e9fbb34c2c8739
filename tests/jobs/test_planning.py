"""Every row of the table once, the order of the rows, their boundaries, and the fingerprint of the facts."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from jobs.planning import (
    RULES,
    CurrentChain,
    Key,
    Newest,
    PlanRefused,
    Reason,
    Refusal,
    Situation,
    digest,
    plan,
)

KEY = Key("r1", 1, "vault key")
NEXT_VERSION = Key("r1", 2, "vault key")
OTHER = Key("r2", 1, "other key")
STARTED = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
NEWEST = Newest("p7", 7, STARTED, (KEY,))
CHAIN = CurrentChain("c1", "repo1", True, points=7, run_points=7, newest=NEWEST, repository_name="attic")
GOING_ON = Situation(KEY, "repo1", keep_points=14, chain=CHAIN, repository_name="attic")
PLAIN_CHAIN = replace(CHAIN, encrypted=False, newest=replace(NEWEST, keys=()))
PLAIN = replace(GOING_ON, key=None, chain=PLAIN_CHAIN)

NEW_CHAIN = ("full", True, True)
NEW_RUN = ("full", False, True)
INCREMENTAL = ("incremental", False, False)


def with_chain(situation: Situation, **changes) -> Situation:
    return replace(situation, chain=replace(situation.chain, **changes))


def with_newest(situation: Situation, **changes) -> Situation:
    return with_chain(situation, newest=replace(situation.chain.newest, **changes))


ROWS = [
    (replace(GOING_ON, chain=None), NEW_CHAIN, Reason.FIRST_SESSION, {}),
    (replace(PLAIN, chain=None), NEW_CHAIN, Reason.FIRST_SESSION, {}),
    (replace(GOING_ON, chain=None, new_chain_requested=True), NEW_CHAIN, Reason.FIRST_SESSION, {}),
    (replace(GOING_ON, chain=None, had_chain=True), NEW_CHAIN, Reason.NEW_CHAIN_REQUESTED, {}),
    (replace(GOING_ON, new_chain_requested=True), NEW_CHAIN, Reason.NEW_CHAIN_REQUESTED, {}),
    (with_chain(GOING_ON, damage="point 3"), NEW_CHAIN, Reason.CHAIN_DAMAGED, {"damage": "point 3"}),
    (
        replace(GOING_ON, repository="repo2", repository_name="vault"),
        NEW_CHAIN,
        Reason.REPOSITORY_CHANGED,
        {"old": "attic", "new": "vault"},
    ),
    (replace(GOING_ON, chain=PLAIN_CHAIN), NEW_CHAIN, Reason.ENCRYPTION_ENABLED, {}),
    (replace(GOING_ON, key=None), NEW_CHAIN, Reason.ENCRYPTION_DISABLED, {}),
    (replace(GOING_ON, full_requested=True), NEW_RUN, Reason.ACTIVE_FULL, {}),
    (replace(GOING_ON, keep_points=7), NEW_RUN, Reason.RUN_COMPLETE, {"points": 7, "keep": 7}),
    (replace(GOING_ON, keep_points=6), NEW_RUN, Reason.RUN_COMPLETE, {"points": 7, "keep": 6}),
    (
        with_newest(GOING_ON, key_gone=KEY),
        NEW_CHAIN,
        Reason.KEY_GONE,
        {"kind": "password", "record": "r1", "version": 1, "name": "vault key", "points": 7},
    ),
    (
        replace(GOING_ON, key=NEXT_VERSION),
        INCREMENTAL,
        Reason.KEY_CHANGED,
        {
            "old_kind": "password",
            "old_record": "r1",
            "old_version": 1,
            "old_name": "vault key",
            "kind": "password",
            "record": "r1",
            "version": 2,
            "name": "vault key",
            "same_record": True,
        },
    ),
    (
        replace(GOING_ON, key=OTHER),
        INCREMENTAL,
        Reason.KEY_CHANGED,
        {
            "old_kind": "password",
            "old_record": "r1",
            "old_version": 1,
            "old_name": "vault key",
            "kind": "password",
            "record": "r2",
            "version": 1,
            "name": "other key",
            "same_record": False,
        },
    ),
    (
        GOING_ON,
        INCREMENTAL,
        Reason.CHANGES_SINCE_PARENT,
        {"parent": "p7", "sequence": 7, "started_at": "2026-03-04T05:06:07+00:00"},
    ),
    (
        PLAIN,
        INCREMENTAL,
        Reason.CHANGES_SINCE_PARENT,
        {"parent": "p7", "sequence": 7, "started_at": "2026-03-04T05:06:07+00:00"},
    ),
]


@pytest.mark.parametrize(("situation", "answer", "reason", "params"), ROWS)
def test_row(situation, answer, reason, params):
    found = plan(situation)
    assert (found.kind, found.new_chain, found.new_run) == answer
    assert (found.reason, found.params) == (reason, params)


def test_every_reason_has_a_row_that_is_tested():
    assert {rule.reason for rule in RULES} == set(Reason) == {row[2] for row in ROWS}


def test_the_first_rule_that_applies_answers():
    """Everything at once, then the causes fall away from the top."""
    situation = replace(
        with_newest(with_chain(GOING_ON, damage="point 3", encrypted=False), key_gone=KEY, keys=()),
        new_chain_requested=True,
        repository="repo2",
        full_requested=True,
        keep_points=1,
    )
    found = [plan(situation).reason]
    for step in (
        lambda s: replace(s, new_chain_requested=False),
        lambda s: with_chain(s, damage=""),
        lambda s: replace(s, repository="repo1"),
        lambda s: with_chain(s, encrypted=True),
        lambda s: replace(s, full_requested=False),
        lambda s: replace(s, keep_points=14),
        lambda s: with_newest(s, key_gone=None),
        lambda s: with_newest(s, keys=(KEY,)),
    ):
        situation = step(situation)
        found.append(plan(situation).reason)
    assert found == [reason for reason in Reason if reason not in (Reason.FIRST_SESSION, Reason.ENCRYPTION_DISABLED)]


def test_a_run_one_short_of_what_is_kept_goes_on():
    assert plan(replace(GOING_ON, keep_points=8)).reason == Reason.CHANGES_SINCE_PARENT


def test_encryption_on_and_off_again_changes_nothing():
    """The comparison is with the newest sealed point: what was edited in between is not a fact."""
    on = replace(PLAIN, key=KEY)
    assert plan(on).reason == Reason.ENCRYPTION_ENABLED
    assert plan(replace(on, key=None)).reason == Reason.CHANGES_SINCE_PARENT


def test_a_point_that_opens_with_several_keys_has_not_changed_them():
    rewrapped = with_newest(GOING_ON, keys=(OTHER, KEY))
    assert plan(rewrapped).reason == Reason.CHANGES_SINCE_PARENT


def test_a_key_renamed_is_the_same_key():
    assert plan(replace(GOING_ON, key=replace(KEY, name="renamed"))).reason == Reason.CHANGES_SINCE_PARENT


@pytest.mark.parametrize("chain", [None, CHAIN, PLAIN_CHAIN])
def test_a_vault_refuses_plaintext_whatever_stands_there(chain):
    vault = replace(PLAIN, chain=chain, requires_encryption=True)
    with pytest.raises(PlanRefused) as refused:
        plan(vault)
    assert (refused.value.code, refused.value.params) == (Refusal.VAULT_REFUSES_PLAIN, {"repository": "attic"})
    assert plan(replace(vault, key=KEY)).kind in ("full", "incremental")


CHANGES = {
    "encryption": lambda s: replace(s, key=None),
    "key": lambda s: replace(s, key=OTHER),
    "repository": lambda s: replace(s, repository="repo2"),
    "keep": lambda s: replace(s, keep_points=15),
    "full": lambda s: replace(s, full_requested=True),
    "new chain": lambda s: replace(s, new_chain_requested=True),
    "vault": lambda s: replace(s, requires_encryption=True),
    "chain": lambda s: replace(s, chain=None),
    "history": lambda s: replace(s, had_chain=True),
    "damage": lambda s: with_chain(s, damage="point 3"),
    "newest": lambda s: with_newest(s, id="p8", sequence=8),
    "slots": lambda s: with_newest(s, keys=(KEY, OTHER)),
    "key gone": lambda s: with_newest(s, key_gone=KEY),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_digest_changes_with_each_fact(change):
    assert digest(GOING_ON) == digest(replace(GOING_ON))
    assert digest(change(GOING_ON)) != digest(GOING_ON)


def test_the_digest_leaves_out_names_and_which_new_key_it_will_be():
    assert digest(replace(GOING_ON, repository_name="renamed")) == digest(GOING_ON)
    assert digest(replace(GOING_ON, key=OTHER)) == digest(replace(GOING_ON, key=Key("", 0)))
    without = replace(GOING_ON, chain=None)
    assert digest(without) == digest(replace(without, key=OTHER)) != digest(replace(without, key=None))
