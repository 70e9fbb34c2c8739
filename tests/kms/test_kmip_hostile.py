"""Whatever a server answers is understood or is one of the errors: never a traceback, never without end."""

from __future__ import annotations

import random

import pytest

from keys import crypto_rsa
from keys.crypto_rsa import Oaep
from keys.kms.connecting import connect
from keys.kms.interface import KmsError, KmsGarbage
from keys.kms.kmip import Kmip

pytestmark = pytest.mark.filterwarnings("ignore")  # of parsers, about the noise that they are given


class Replay(Kmip):
    """A connection whose server says what it is told to."""

    answer = b""

    def __enter__(self):
        self._channel = Closing()
        return self

    def _exchange(self, request: bytes) -> bytes:
        return self.answer


class Closing:
    def close(self) -> None:
        pass


class Recording(Kmip):
    def _exchange(self, request: bytes) -> bytes:
        self.last = super()._exchange(request)
        return self.last


@pytest.fixture(scope="module")
def answers(running_kmip_server):
    """Calls, each with the real answer that it got."""
    running_kmip_server.mode()
    address = running_kmip_server.address()
    with connect(address) as kms:
        pair = kms.create_key_pair("hostile", 3072)
    sealed = crypto_rsa.encapsulate(bytes(32), pair.public, Oaep.SHA256)
    calls = (
        lambda kms: kms.public_key(pair.public_id),
        lambda kms: kms.private_key(pair.private_id),
        lambda kms: kms.state(pair.private_id),
        lambda kms: kms.unwrap(pair.private_id, sealed, Oaep.SHA256),
        lambda kms: kms.rotated("hostile", 1, set()),
        lambda kms: kms.state("no such key"),
    )
    with Recording(address) as kms:
        return [(call, recorded(kms, call)) for call in calls], address


def recorded(kms, call) -> bytes:
    call(kms)
    return kms.last


def ask(call, address, answer: bytes) -> bool:
    """Whether the answer was understood; anything but a KmsError fails the test."""
    with Replay(address) as kms:
        kms.answer = answer
        try:
            call(kms)
        except KmsError:
            return False
        return True


def test_every_byte_of_an_answer_may_be_wrong(answers):
    found, address = answers
    refused = 0
    for call, answer in found:
        for position in range(0, len(answer), 1 if len(answer) < 1000 else 331):  # a damaged private key takes its time
            wrong = answer[:position] + bytes([answer[position] ^ (1 << position % 8)]) + answer[position + 1 :]
            refused += not ask(call, address, wrong)
    assert refused > 500


def test_an_answer_may_end_anywhere(answers):
    found, address = answers
    for call, answer in found:
        understood = [length for length in range(len(answer)) if ask(call, address, answer[:length])]
        # At most what may be missing is missing: padding, and what else is said of a key beside the key.
        assert all(length > len(answer) - 60 for length in understood), understood


def test_noise_is_no_answer(answers):
    found, address = answers
    chance = random.Random(5)
    for call, answer in found:
        for _ in range(50):
            with Replay(address) as kms, pytest.raises(KmsGarbage):
                kms.answer = answer[:8] + chance.randbytes(len(answer) - 8)
                call(kms)
