"""Every code that a session, the planner or admission stores has a sentence of its own, without holes in it."""

from __future__ import annotations

import re

import pytest
from django.template.loader import render_to_string

from jobs import admission, consequences, due, outcome, planning, pruning

NOW = "2026-11-23T02:00:00+00:00"
UUID = "6a3f1b4e-0000-4000-8000-000000000000"
KEY = {"record": UUID, "version": 2, "name": "finance"}
CHAIN = {"chain": UUID, "state": "current", "points": 7, "bytes": 13 * 2**30, "first": NOW, "last": NOW}
CLOSED_KEY = {
    "key": "key of Ledger on vault, version 1",
    "state": "destroyed",
    "points": 7,
    "with_another_slot": 2,
    "jobs": ["Ledger"],
    "first": NOW,
    "last": NOW,
}

REASON_PARAMS = {
    "chain-damaged": {"damage": "the file of point 3 is missing"},
    "repository-changed": {"old": "nas", "new": "vault"},
    "run-complete": {"points": 7, "keep": 7},
    "key-gone": {**KEY, "points": 7},
    "key-changed": {**{f"old_{name}": value for name, value in KEY.items()}, **KEY, "same_record": False},
    "changes-since-parent": {"parent": UUID, "sequence": 3, "started_at": NOW},
}
EFFECT_PARAMS = {
    "vault-refuses-plain": {"repository": "vault"},
    "existing-chain-stays-plain": CHAIN,
    "existing-chain-stays-encrypted": {**CHAIN, "keys": [KEY]},
    "existing-chain-stays": {**CHAIN, "repository": "nas"},
    "old-points-keep-old-key": {**KEY, "points": 7},
    "new-key-opens-whole-chain": {**KEY, "points": 7},
    "key-is-gone": KEY,
    "no-recovery-key": {"server": "kms"},
    "kms-releases-keys": {"server": "kms"},
    "kms-outage": {"server": "kms", "outage": "cached"},
    "strict-custody": {"server": "kms"},
    "up-to-2n-stay": {"points": 14, "keep": 7, "bytes": 2**30},
    "running-session-keeps-its-settings": {"session": UUID, "state": "running"},
}
RESULT_PARAMS = {
    "rewrapped": {"written": 7, "passed": 1, "refused": 1, "closed": 1, "points": 10},
    "nothing-rewrapped": {"written": 0, "passed": 0, "refused": 1, "closed": 1, "points": 2},
    "recipient-gone": {"name": "password 0f8e, version 2"},
    "chain-gone": {},
    "backed-up": {"kind": "full", "sequence": 1, "new_chain": True, "warnings": 1},
    "restored": {"skipped": 1, "failed": 2, "warnings": 3},
    "verified": {"depth": "full", "notes": 0},
    "damaged": {"damages": 1, "damaged_files": 2},
    "kms-polled": {"server": "vault", "keys": 2, "pairs": 3, "rotated": 1},
    "kms-doubt": {
        "server": "vault",
        "problems": ["The key is active, but does not open."],
    },
    "kms-keys-closed": {"server": "vault", "points": 7, "keys": [CLOSED_KEY, {**CLOSED_KEY, "points": 0, "jobs": []}]},
    "protection-changed": {"job": "Ledger"},
    "plaintext-refused": {"repository": "vault"},
    "source-in-repository": {"path": "/srv", "repository": "/srv/r"},
    "source-in-state-folder": {"path": "/srv"},
    "repository-away": {"path": "/srv/r"},
    "repository-empty": {"path": "/srv/r", "points": 7},
    "state-disk-full": {"path": "/srv/r", "free_bytes": 2**20, "needed_bytes": 2**30},
    "out-of-space": {"path": "/srv/r", "free_bytes": 2**20, "needed_bytes": 2**30},
    "cancelled": {"before_start": True},
}
WAIT_PARAMS = {
    "proxy-away": {"proxy": "fra-2", "seen_at": NOW},
    "proxy-busy": {"proxy": "fra-2", "running": 2, "workers": 2},
    "chain-busy": {"session": UUID, "kind": "backup"},
}
HOLE = re.compile(r"\bNone\b|  |\(\)| \.|\s,")


def words(template: str, **context: object) -> str:
    """Return the sentence without markup, blanks folded."""
    html = render_to_string(f"jobs/{template}.html", context).replace("</strong><span>", "</strong> <span>")
    return " ".join(re.sub(r"<[^>]+>", "", html).split())


def check(sentence: str, code: str) -> None:
    assert sentence and sentence != code, f"{code} has no sentence"
    assert not HOLE.search(sentence), sentence
    assert sentence[0].isupper() or sentence[0].isdigit(), sentence
    assert sentence.endswith("."), sentence


@pytest.mark.parametrize("reason", list(planning.Reason))
def test_every_reason_has_a_sentence(reason):
    sentence = words("_reason", code=reason, params=REASON_PARAMS.get(reason, {}), message="")
    check(sentence, reason)


def test_keys_of_servers_are_said_otherwise_than_passwords():
    kms = {**KEY, "kind": "kms", "name": "key of Ledger on vault"}
    rotated = words("_reason", code="key-changed", params={**kms, "same_record": True})
    assert rotated == "The key of Ledger on vault was rotated."
    gone = words("_reason", code="key-gone", params={**kms, "points": 2})
    assert gone == "The key of Ledger on vault is gone for good: its chain of 2 restore points ends here."
    kept = words("_consequence", code="old-points-keep-old-key", params={**kms, "points": 2})
    assert "that key has to stay on its server" in kept and "who knows it" not in kept
    fails = words("_consequence", code="kms-outage", params={"server": "vault", "outage": "fail"})
    assert fails.startswith("Sessions fail while vault does not answer")


def test_a_changed_password_and_another_password_are_said_differently():
    same = words("_reason", code="key-changed", params={**REASON_PARAMS["key-changed"], "same_record": True})
    assert same == "The password finance was changed."
    other = {**REASON_PARAMS["key-changed"], "old_name": "hr"}
    assert words("_reason", code="key-changed", params=other) == "The encryption key was changed from hr to finance."


@pytest.mark.parametrize("effect", list(consequences.Effect))
def test_every_consequence_has_a_sentence(effect):
    sentence = words("_consequence", code=effect, params=EFFECT_PARAMS.get(effect, {}), message="")
    check(sentence, effect)


@pytest.mark.parametrize("code", ["first", "second"])
def test_an_unknown_code_falls_back_to_the_stored_message(code):
    for template in ("_reason", "_result", "_consequence"):
        assert words(template, code=code, params={}, message="What was stored.") == "What was stored."
        assert words(template, code=code, params={}, message="") == code


def result_codes() -> set[str]:
    """Return the codes that the docstring of `outcome` lists, so that none is forgotten."""
    listed = outcome.__doc__.partition("Result codes")[2].partition("Codes of log lines")[0]
    return set(re.findall(r"\b[a-z]+(?:-[a-z]+)+\b", listed))


def test_every_reason_to_wait_has_a_sentence():
    for code, params in WAIT_PARAMS.items():
        check(words("_waiting", code=code, params=params), code)
        assert code in admission.__doc__
    assert "never seen" in words("_waiting", code="proxy-away", params={"proxy": "fra-2", "seen_at": None})
    assert words("_waiting", code="", params={}) == "It is about to start."


@pytest.mark.parametrize("code", sorted(RESULT_PARAMS))
def test_every_usual_result_has_a_sentence_of_its_own(code):
    assert code in outcome.__doc__
    check(words("_result", code=code, params=RESULT_PARAMS[code], message=""), code)


def test_every_result_has_at_least_the_sentence_that_was_stored():
    codes = result_codes()
    assert {"backed-up", "protection-changed", "lease-lost"} <= set(codes)
    for code in codes:
        check(
            words("_result", code=code, params=RESULT_PARAMS.get(code, {"path": "/srv/x"}), message="Stored sentence."),
            code,
        )


@pytest.mark.parametrize("reason", list(due.Reason))
def test_every_due_time_that_passed_by_has_a_sentence(reason):
    passed = {"reason": str(reason), "params": {"session": UUID, "state": "running"}, "count": 1}
    check(words("_due", due=passed), reason)


@pytest.mark.parametrize("damage", ["the file of point 1 is missing", "The file 1 is damaged. Verify it."])
def test_a_damage_ends_with_one_full_stop(damage):
    sentence = words("_reason", code="chain-damaged", params={"damage": damage}, message="")
    assert sentence == f"The chain is damaged: {damage.rstrip('.')}."


def test_entries_that_could_not_be_restored_are_counted():
    sentence = words("_result", code="restored", params={"skipped": 0, "failed": 2, "warnings": 0})
    assert sentence == "Restored; 2 entries could not be restored."


def test_every_wait_of_an_old_chain_has_a_sentence():
    codes = re.findall(r"^    ([a-z]+(?:-[a-z]+)*) {2,}\S", pruning.__doc__, re.M)
    assert {"successor-missing", "verify-failed", "ready"} <= set(codes)
    for code in codes:
        params = {"session": UUID, "sequence": 3, "warnings": 2, "damage": "x"}
        check(words("_old_chain_waits", code=code, params=params), code)


def test_parameters_are_escaped():
    html = render_to_string(
        "jobs/_reason.html", {"code": "chain-damaged", "params": {"damage": "<b>x</b>"}, "message": ""}
    )
    assert "<b>" not in html
    html = render_to_string("jobs/_result.html", {"code": "x", "params": {}, "message": "<script>"})
    assert "<script>" not in html
