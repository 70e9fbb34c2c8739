"""Answering questions about chains that are to be taken over, on the proxy: which there are, and what opens.

The answers are dataclasses of `repositories.foreign` as plain values; `read` makes them again. A question may carry a
password and an answer file keys: both are sealed rows that are removed when they were read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import msgspec

from jobs.questions import Refused
from keys.crypto_errors import CryptoError
from keys.crypto_password import password_bytes
from keys.crypto_recovery_request import SlotSecret
from repositories import foreign, recovery_requests
from repositories.catalogue import RepositoryAway
from repositories.engine.errors import EngineError
from repositories.models import Repository
from repositories.recovery_requests import secret_of

Answer = dict[str, Any]
ANSWER_SECONDS = 28  # a proxy gives a quick question up after 30
_T = TypeVar("_T")


def read(answer: Answer, kind: type[_T]) -> _T:
    """Make what was found from an answer."""
    return msgspec.convert(answer["found"], kind)


def unknown_chains(repository: str) -> Answer:
    """Return list[ListedChain]."""
    with _refusals():
        return _plain(foreign.unknown_chains(_repository(repository)))


def look_at_chain(repository: str, chain: str) -> Answer:
    """Return SeenChain."""
    with _refusals():
        return _plain(foreign.look(_repository(repository), UUID(chain)))


def open_chain(
    repository: str,
    chain: str,
    password: str | None = None,
    wanted: tuple[str, int] | None = None,
    answered: list[dict[str, Any]] | None = None,
) -> Answer:
    """Return OpenedChain; `wanted` is the record and version that the password is for, `answered` are SlotSecrets."""
    with _refusals():
        return _plain(
            foreign.open_chain(
                _repository(repository),
                UUID(chain),
                password=None if password is None else password_bytes(password),
                wanted=(UUID(wanted[0]), wanted[1]) if wanted else None,
                secret_of=secret_of(msgspec.convert(answered, list[SlotSecret])) if answered else None,
            )
        )


def recovery_slots(repository: str, chain: str) -> Answer:
    """Return ToAsk."""
    with _refusals():
        return _plain(recovery_requests.to_ask(_repository(repository), UUID(chain)))


def _repository(uuid: str) -> Repository:
    return Repository.objects.get(uuid=uuid)


def _plain(found: object) -> Answer:
    return {"found": msgspec.to_builtins(found)}


@contextmanager
def _refusals() -> Iterator[None]:
    """Turn what cannot be done into the refusal of a question."""
    try:
        yield
    except RepositoryAway as error:
        raise Refused("repository-away", {}, str(error)) from error
    except foreign.NothingThere as error:
        raise Refused("nothing-there", {}, str(error)) from error
    except recovery_requests.CannotAsk as error:
        raise Refused("cannot-ask", {}, str(error)) from error
    except (EngineError, CryptoError) as error:
        raise Refused(error.code, {}, str(error)) from error


ANSWERS: dict[str, Callable[..., Answer]] = {
    "unknown_chains": unknown_chains,
    "look_at_chain": look_at_chain,
    "open_chain": open_chain,
    "recovery_slots": recovery_slots,
}
