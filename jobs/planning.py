"""What the next session writes, and why: the rules of the chain, as one table over facts.

The session obeys `plan`, the job form shows its answer before anything is saved, and both keep the reason as a code
with parameters; templates/jobs/_reason.html makes the sentence. Where the facts come from is decided in
`jobs.situation`, what the answer means for what exists in `jobs.consequences`, and what leaves the chain in the end in
`jobs.retention`.

Reasons and their parameters:

    first-session           (none)
    new-chain-requested     (none)
    chain-damaged           damage: what is missing or damaged, by name
    repository-changed      old, new: names of repositories
    encryption-enabled      (none)
    encryption-disabled     (none)
    active-full             (none)
    run-complete            points, keep
    key-gone                kind, record, version, name; points: how many its chain has
    key-changed             old_kind, old_record, old_version, old_name, kind, record, version, name; same_record: a new
                            version of it
    changes-since-parent    parent: the point's id; sequence, started_at (ISO 8601, UTC)

Refusals (`PlanRefused`): vault-refuses-plain: repository (a name).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

Kind = Literal["full", "incremental"]
Params = dict[str, Any]


class Reason(StrEnum):
    FIRST_SESSION = "first-session"
    NEW_CHAIN_REQUESTED = "new-chain-requested"
    CHAIN_DAMAGED = "chain-damaged"
    REPOSITORY_CHANGED = "repository-changed"
    ENCRYPTION_ENABLED = "encryption-enabled"
    ENCRYPTION_DISABLED = "encryption-disabled"
    ACTIVE_FULL = "active-full"
    RUN_COMPLETE = "run-complete"
    KEY_GONE = "key-gone"
    KEY_CHANGED = "key-changed"
    CHANGES_SINCE_PARENT = "changes-since-parent"


class Refusal(StrEnum):
    VAULT_REFUSES_PLAIN = "vault-refuses-plain"


class PlanRefused(Exception):
    """There is nothing that the next session may write: the settings have to change first."""

    def __init__(self, code: Refusal, params: Params) -> None:
        super().__init__(f"No backup may be written ({code}): {params}")
        self.code = code
        self.params = params


@dataclass(frozen=True)
class Key:
    """A recipient: one version of a key record. Its name and kind are for reading and never compared."""

    record: str
    version: int
    name: str = field(default="", compare=False)
    kind: str = field(default="password", compare=False)  # or kms


@dataclass(frozen=True)
class Newest:
    """The newest sealed point of the chain, the only one that may be a parent."""

    id: str
    sequence: int
    started_at: datetime
    keys: tuple[Key, ...] = ()  # of its password and KMS slots
    key_gone: Key | None = None  # destroyed, or declared lost by an administrator; never one merely out of reach


@dataclass(frozen=True)
class CurrentChain:
    """The chain that the next session may go on with."""

    id: str
    repository: str
    encrypted: bool
    points: int
    run_points: int  # in its newest run
    newest: Newest
    damage: str = ""
    repository_name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Custody:
    """What a KMS job says of its server, for `jobs.consequences`; the table does not ask for it."""

    server: str
    outage: str  # cached or fail
    releases_private_keys: bool = False
    strict: bool = False


@dataclass(frozen=True)
class Situation:
    """The facts: the job as it is (or would be saved), and what stands in the catalogue."""

    key: Key | None  # None: unencrypted
    repository: str
    keep_points: int
    chain: CurrentChain | None = None
    had_chain: bool = False  # the job has points outside the current chain
    requires_encryption: bool = False
    full_requested: bool = False
    new_chain_requested: bool = False
    key_is_gone: bool = False  # the job's own: nothing may be sealed for it
    custody: Custody | None = None
    recovery_keys: int = 0  # active ones
    repository_name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Plan:
    kind: Kind
    new_chain: bool
    new_run: bool
    reason: Reason
    params: Params


@dataclass(frozen=True)
class _Rule:
    reason: Reason
    kind: Kind
    new_chain: bool
    applies: Callable[[Situation], bool]
    params: Callable[[Situation], Params] = lambda s: {}


def _chain(s: Situation) -> CurrentChain:
    """Return the chain, which the first rules have made sure of."""
    if s.chain is None:
        raise LookupError("This rule stands above the one that asks for a chain.")
    return s.chain


# Read from the top; the first that applies is the answer.
RULES = (
    _Rule(Reason.FIRST_SESSION, "full", True, lambda s: s.chain is None and not s.had_chain),
    _Rule(Reason.NEW_CHAIN_REQUESTED, "full", True, lambda s: s.chain is None or s.new_chain_requested),
    _Rule(Reason.CHAIN_DAMAGED, "full", True, lambda s: bool(_chain(s).damage), lambda s: {"damage": _chain(s).damage}),
    _Rule(
        Reason.REPOSITORY_CHANGED,
        "full",
        True,
        lambda s: _chain(s).repository != s.repository,
        lambda s: {"old": _chain(s).repository_name, "new": s.repository_name},
    ),
    _Rule(Reason.ENCRYPTION_ENABLED, "full", True, lambda s: s.key is not None and not _chain(s).encrypted),
    _Rule(Reason.ENCRYPTION_DISABLED, "full", True, lambda s: s.key is None and _chain(s).encrypted),
    _Rule(Reason.ACTIVE_FULL, "full", False, lambda s: s.full_requested),
    _Rule(
        Reason.RUN_COMPLETE,
        "full",
        False,
        lambda s: _chain(s).run_points >= s.keep_points,
        lambda s: {"points": _chain(s).run_points, "keep": s.keep_points},
    ),
    _Rule(Reason.KEY_GONE, "full", True, lambda s: _chain(s).newest.key_gone is not None, lambda s: _gone(_chain(s))),
    _Rule(
        Reason.KEY_CHANGED,
        "incremental",
        False,
        lambda s: s.key is not None and s.key not in _chain(s).newest.keys,
        lambda s: _changed(_chain(s).newest.keys, s.key),
    ),
    _Rule(Reason.CHANGES_SINCE_PARENT, "incremental", False, lambda s: True, lambda s: _parent(_chain(s).newest)),
)


def plan(situation: Situation) -> Plan:
    """Return what the next session writes. Raises PlanRefused where it may write nothing."""
    if refused(situation):
        raise PlanRefused(Refusal.VAULT_REFUSES_PLAIN, {"repository": situation.repository_name})
    return answer(situation)


def refused(situation: Situation) -> bool:
    return situation.requires_encryption and situation.key is None


def answer(situation: Situation) -> Plan:
    """Return what the table says, refused or not."""
    rule = next(rule for rule in RULES if rule.applies(situation))
    return Plan(rule.kind, rule.new_chain, rule.kind == "full", rule.reason, rule.params(situation))


def _gone(chain: CurrentChain) -> Params:
    key = chain.newest.key_gone
    return {**named(key), "points": chain.points} if key else {}


def _changed(old: tuple[Key, ...], new: Key | None) -> Params:
    before = old[0] if old else Key("", 0)
    return {
        **{f"old_{name}": value for name, value in named(before).items()},
        **(named(new) if new else {}),
        "same_record": new is not None and before.record == new.record,
    }


def named(key: Key) -> Params:
    return {"kind": key.kind, "record": key.record, "version": key.version, "name": key.name}


def _parent(newest: Newest) -> Params:
    return {"parent": newest.id, "sequence": newest.sequence, "started_at": newest.started_at.isoformat()}


def digest(situation: Situation) -> str:
    """Return the fingerprint of the facts (hexadecimal): the same facts have the same answer.

    Names are left out, and a key that is new to the chain counts as one: the form asks before a new password is made.
    """
    known = situation.chain.newest.keys if situation.chain else ()
    is_new = situation.key is not None and situation.key not in known
    facts = replace(situation, key=Key("new to the chain", 0)) if is_new else situation
    return hashlib.sha256(json.dumps(_facts(facts), sort_keys=True).encode()).hexdigest()


def _facts(value: object) -> object:
    if is_dataclass(value):
        return {f.name: _facts(getattr(value, f.name)) for f in fields(value) if f.compare}
    if isinstance(value, tuple):
        return [_facts(part) for part in value]
    return value.isoformat() if isinstance(value, datetime) else value
