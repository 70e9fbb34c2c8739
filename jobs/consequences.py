"""What the settings of a job mean for the chains that exist, and for what is protected: codes with parameters.

What the next session writes is decided in `jobs.planning`; the sentences are made in templates/jobs/_consequence.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from jobs.planning import Key, Params, Situation, answer, named


class Effect(StrEnum):
    """What the answer means, with its parameters. `chain` is an id, `bytes` a size, `first` and `last` are ISO 8601."""

    VAULT_REFUSES_PLAIN = "vault-refuses-plain"  # repository
    NOT_ENCRYPTED = "not-encrypted"  # (none): a job that never was
    NOT_ENCRYPTED_FROM_NOW = "not-encrypted-from-now"  # (none): encryption is being disabled; needs a reason
    EXISTING_CHAIN_STAYS_PLAIN = "existing-chain-stays-plain"  # chain, state, points, bytes, first, last
    EXISTING_CHAIN_STAYS_ENCRYPTED = "existing-chain-stays-encrypted"  # the same, and keys: [{record, version, name}]
    EXISTING_CHAIN_STAYS = "existing-chain-stays"  # the same as plain, and repository: a name
    OLD_POINTS_KEEP_OLD_KEY = "old-points-keep-old-key"  # points, record, version, name
    NEW_KEY_OPENS_WHOLE_CHAIN = "new-key-opens-whole-chain"  # points, record, version, name
    KEY_IS_GONE = "key-is-gone"  # kind, record, version, name: of the job itself, so sessions fail
    NO_RECOVERY_KEY = "no-recovery-key"  # server: of a KMS job
    KMS_RELEASES_KEYS = "kms-releases-keys"  # server
    KMS_OUTAGE = "kms-outage"  # server, outage: cached or fail; under strict custody sessions fail in any case
    STRICT_CUSTODY = "strict-custody"  # server
    UP_TO_2N_STAY = "up-to-2n-stay"  # points, keep, bytes (an estimate, null before the first full)
    RUNNING_SESSION_KEEPS_ITS_SETTINGS = "running-session-keeps-its-settings"  # session, state


@dataclass(frozen=True)
class Consequence:
    code: Effect
    params: Params


@dataclass(frozen=True)
class KeyUse:
    """How many points of a chain have a slot of this key."""

    key: Key
    points: int


@dataclass(frozen=True)
class ExistingChain:
    """A chain of the job as the pages show it: what is there, and what opens it. Without points there are no dates."""

    id: str
    state: str  # current, previous, detached
    encrypted: bool
    repository_name: str
    points: int
    size_bytes: int
    first: datetime | None
    last: datetime | None
    newest_full_bytes: int = 0
    average_incremental_bytes: int = 0
    keys: tuple[KeyUse, ...] = ()
    damage: str = ""
    delete_after_full: bool = False


@dataclass(frozen=True)
class ActiveSession:
    id: str
    state: str


def consequences(s: Situation, chains: tuple[ExistingChain, ...], active: ActiveSession | None) -> list[Consequence]:
    """Return what saving these settings means, the gravest first."""
    found = [
        *_about_encryption(s),
        *_about_custody(s),
        *_about_chains(s, chains),
        *_about_keys(s, chains),
        _space(s, chains),
    ]
    if active is not None:
        params = {"session": active.id, "state": active.state}
        found.append(Consequence(Effect.RUNNING_SESSION_KEEPS_ITS_SETTINGS, params))
    return found


def _about_encryption(s: Situation) -> Iterator[Consequence]:
    if s.key is not None:
        return
    if s.requires_encryption:
        yield Consequence(Effect.VAULT_REFUSES_PLAIN, {"repository": s.repository_name})
    disabling = s.chain is not None and s.chain.encrypted
    yield Consequence(Effect.NOT_ENCRYPTED_FROM_NOW if disabling else Effect.NOT_ENCRYPTED, {})


def _about_custody(s: Situation) -> Iterator[Consequence]:
    """Say who can open what is written now, and what has to be there for it."""
    if s.key_is_gone and s.key is not None:
        yield Consequence(Effect.KEY_IS_GONE, named(s.key))
    if s.custody is None:
        return
    server = {"server": s.custody.server}
    if not s.recovery_keys:
        yield Consequence(Effect.NO_RECOVERY_KEY, server)
    if s.custody.releases_private_keys:
        yield Consequence(Effect.KMS_RELEASES_KEYS, server)
    if s.custody.strict:
        yield Consequence(Effect.STRICT_CUSTODY, server)  # an outage then ends every session that has a parent
        return
    yield Consequence(Effect.KMS_OUTAGE, {**server, "outage": s.custody.outage})


def _about_chains(s: Situation, chains: tuple[ExistingChain, ...]) -> Iterator[Consequence]:
    """Name each chain whose protection differs from the job's, and the current one if the job leaves it."""
    for chain in chains:
        if not chain.points:
            continue
        if s.key is not None and not chain.encrypted:
            yield Consequence(Effect.EXISTING_CHAIN_STAYS_PLAIN, _described(chain))
        elif s.key is None and chain.encrypted:
            keys = [named(use.key) for use in chain.keys]
            yield Consequence(Effect.EXISTING_CHAIN_STAYS_ENCRYPTED, {**_described(chain), "keys": keys})
        elif chain.state == "current" and _leaves_chain(s):
            yield Consequence(Effect.EXISTING_CHAIN_STAYS, {**_described(chain), "repository": chain.repository_name})


def _leaves_chain(s: Situation) -> bool:
    return answer(s).new_chain


def _described(chain: ExistingChain) -> Params:
    return {
        "chain": chain.id,
        "state": chain.state,
        "points": chain.points,
        "bytes": chain.size_bytes,
        "first": chain.first.isoformat() if chain.first else None,
        "last": chain.last.isoformat() if chain.last else None,
    }


def _about_keys(s: Situation, chains: tuple[ExistingChain, ...]) -> Iterator[Consequence]:
    """Say of the chain that goes on what each earlier key still opens, and that the new one will open all of it."""
    going_on = [chain for chain in chains if chain.state == "current" and not _leaves_chain(s)]
    for chain in going_on:
        earlier = [use for use in chain.keys if use.key != s.key]
        for use in earlier:
            yield Consequence(Effect.OLD_POINTS_KEEP_OLD_KEY, {**named(use.key), "points": use.points})
        if earlier and s.key is not None:
            yield Consequence(Effect.NEW_KEY_OPENS_WHOLE_CHAIN, {**named(s.key), "points": chain.points})


def _space(s: Situation, chains: tuple[ExistingChain, ...]) -> Consequence:
    """Say that two runs stay beside each other, and estimate the space from the sizes until now."""
    current = next((chain for chain in chains if chain.state == "current" and chain.newest_full_bytes), None)
    run_bytes = _run_bytes(current, s.keep_points) if current else None
    params = {"points": 2 * s.keep_points, "keep": s.keep_points, "bytes": 2 * run_bytes if run_bytes else None}
    return Consequence(Effect.UP_TO_2N_STAY, params)


def _run_bytes(chain: ExistingChain, points: int) -> int:
    return chain.newest_full_bytes + (points - 1) * chain.average_incremental_bytes
