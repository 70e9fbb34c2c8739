"""What the other tests build on: rows of servers and keys that the console vouches for, with real pairs behind them."""

import pytest

from keys import crypto_rsa
from keys.crypto_rsa import Oaep
from keys.kms.connecting import connect
from keys.public_recipients import kms_recipient
from keys.sealing import unseal_for
from tests.factories import add_kms_version, make_chain, make_job, make_kms_key, make_kms_server, make_point
from tests.kms.certificates import the_client


@pytest.mark.django_db
def test_a_key_of_a_running_server_opens_what_is_sealed_for_it(kmip_server):
    server = make_kms_server(kmip_server)
    assert unseal_for(server, "private_key_sealed").decode() == the_client().key_pem
    key = make_kms_key(server, kmip_server)
    second = add_kms_version(key, kmip_server)
    recipient = kms_recipient(second)
    assert (recipient.record, recipient.version, key.newest()) == (key.uuid, 2, second)
    sealed = crypto_rsa.encapsulate(bytes(32), recipient.public, Oaep.SHA256)
    with connect(kmip_server.address()) as kms:
        assert kms.unwrap(recipient.key_id, sealed, Oaep.SHA256) == bytes(32)


@pytest.mark.django_db
def test_a_key_needs_no_server_where_nothing_is_opened():
    job = make_job(kms_key=make_kms_key())
    point = make_point(make_chain(job))
    assert point.slots.get().kms == job.kms_key.newest()
    assert kms_recipient(job.kms_key.newest()).server == job.kms_key.server.name
