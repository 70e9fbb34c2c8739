"""Plain factories for tests: each makes one saved row (and what it cannot be without), every field can be given.

They write rows, not backup files: a test that needs real files runs the engine. Names are unique within a process; the
cast of the tests (Alice administers, Bob operates, Charlie may see nothing) is made by `make_user`.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from django.utils import timezone

from backupsite.models import Role, RoleGrant, User
from jobs.models import (
    DueTime,
    Encryption,
    Job,
    JobChain,
    JobChainState,
    Pin,
    Proxy,
    Session,
    SessionKind,
    State,
)
from keys.crypto_password import KdfParameters, derive_kek, new_salt, password_bytes
from keys.crypto_recovery import RecoveryPrivate, new_private
from keys.crypto_recovery_request import AskedFile, AskedSlot
from keys.kms.connecting import connect
from keys.kms.interface import KeyPair
from keys.models import KmsKey, KmsKeyVersion, KmsServer, MadeBy, PasswordRecord, PasswordVersion, RecoveryKey
from keys.sealing import ensure_ring, seal_for, vouch_for
from repositories import recovery_requests
from repositories.models import Chain, Kind, RecoveryRequest, Repository, RestorePoint, Slot
from repositories.recovery_requests import ToAsk
from tests.kms.certificates import the_ca, the_client
from tests.kms.server import KmipServer

FIRST_POINT_AT = datetime(2026, 1, 1, tzinfo=UTC)
CHEAP = KdfParameters(memory_kib=8 * 1024, iterations=1, lanes=1)

_numbers = count(1)


def make_user(role: str | None = Role.ADMINISTRATOR, *, username: str | None = None, **fields: Any) -> User:
    """Make a user with one role, or with none (`role=None`). Without `password` only force_login signs the user in."""
    password = fields.pop("password", None)
    user = User(username=username or f"{role or 'nobody'}-{next(_numbers)}", **fields)
    user.set_unusable_password() if password is None else user.set_password(password)
    user.save()
    if role is not None:
        RoleGrant.objects.create(user=user, role=role)
    return user


def make_proxy(**fields: Any) -> Proxy:
    """Return the local proxy (made anew where a test emptied the tables), or with fields another one."""
    if not fields:
        return Proxy.objects.get_or_create(cluster="local", defaults={"name": "local"})[0]
    number = next(_numbers)
    return Proxy.objects.create(**{"name": f"proxy-{number}", "cluster": f"proxy-{number}", **fields})


def make_repository(path: Path | str | None = None, **fields: Any) -> Repository:
    number = next(_numbers)
    defaults = {"name": f"repository-{number}", "path": str(path or f"/srv/backups-{number}")}
    return Repository.objects.create(**{**defaults, **fields})


def make_password(password: str = "correct horse battery staple", **fields: Any) -> PasswordRecord:
    """Make a record with its first version: the real derivation at the lowest cost allowed."""
    record = PasswordRecord.objects.create(**{"name": f"password-{next(_numbers)}", **fields})
    change_password(record, password)
    return record


def change_password(record: PasswordRecord, password: str = "another horse") -> PasswordVersion:
    """Add the next version of a record, at the lowest cost allowed."""
    ensure_ring()
    salt = new_salt()
    version = PasswordVersion(
        record=record,
        number=record.versions.count() + 1,
        salt=salt,
        memory_kib=CHEAP.memory_kib,
        iterations=CHEAP.iterations,
        lanes=CHEAP.lanes,
        kek_sealed=b"",
    )
    version.save()
    kek = derive_kek(password_bytes(password), salt=salt, parameters=CHEAP)
    version.kek_sealed = seal_for(version, "kek_sealed", kek)
    version.save(update_fields=["kek_sealed"])
    return version


def make_recovery_key(private: RecoveryPrivate | None = None, **fields: Any) -> RecoveryKey:
    """Make a recovery key that is vouched for. Give `private` where something sealed for it is to be opened."""
    ensure_ring()
    public = (private or new_private()).public()
    defaults = {"name": f"recovery-{next(_numbers)}", "public": public, "made_by": MadeBy.OFFLINE}
    key = RecoveryKey.objects.create(**{**defaults, **fields})
    key.proof = vouch_for(key, "proof")
    key.save(update_fields=["proof"])
    return key


def make_recovery_request(repository: Repository, by: User | None = None) -> RecoveryRequest:
    """Make a request for one slot of a file that does not exist."""
    ensure_ring()
    slot = AskedSlot(uuid.uuid4().bytes, 1, bytes(32), "safe", bytes(1168))
    asked = ToAsk((AskedFile(uuid.uuid4().bytes, 1, 0, 0, [slot]),), 1, 0)
    return recovery_requests.make(repository, uuid.uuid4(), asked, by or make_user())


def make_kms_server(real: KmipServer | None = None, **fields: Any) -> KmsServer:
    """Make the record of a KMS server, vouched for: of a running one (the fixture kmip_server), or one that is away."""
    ensure_ring()
    number = next(_numbers)
    defaults: dict[str, Any] = {
        "name": f"kms-{number}",
        "host": real.host if real else "127.0.0.1",
        "port": real.port if real else 1,
        "ca": the_ca().pem,
        "certificate": the_client().pem,
    }
    private_key = fields.pop("private_key", the_client().key_pem)
    server = KmsServer.objects.create(**{**defaults, **fields}, private_key_sealed=b"")
    server.private_key_sealed = seal_for(server, "private_key_sealed", private_key.encode())
    server.proof = vouch_for(server, "proof")
    server.save(update_fields=["private_key_sealed", "proof"])
    return server


def make_kms_key(server: KmsServer | None = None, real: KmipServer | None = None, **fields: Any) -> KmsKey:
    """Make the key of an owner on a server, with its first version: a pair of the running server, or one that nobody
    has the private half of.
    """
    number = next(_numbers)
    defaults = {"owner": uuid.uuid4(), "owner_name": f"job-{number}"}
    key = KmsKey.objects.create(server=server or make_kms_server(real), **{**defaults, **fields})
    add_kms_version(key, real)
    return key


def add_kms_version(key: KmsKey, real: KmipServer | None = None) -> KmsKeyVersion:
    """Add the next version of a key."""
    number = key.versions.count() + 1
    pair = (
        _real_pair(real, f"backupsite-{key.uuid}", number) if real else KeyPair(f"p{number}", f"q{number}", _public())
    )
    version = KmsKeyVersion(
        key=key, number=number, private_id=pair.private_id, public_id=pair.public_id, public=pair.public
    )
    version.save()
    version.proof = vouch_for(version, "proof")
    version.save(update_fields=["proof"])
    return version


def _real_pair(real: KmipServer, name: str, number: int) -> KeyPair:
    with connect(real.address()) as kms:
        return kms.create_key_pair(name, 3072) if number == 1 else kms.rotate(name, number - 1, 3072)


@cache
def _public() -> bytes:
    key = rsa.generate_private_key(public_exponent=65537, key_size=3072).public_key()
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def make_job(**fields: Any) -> Job:
    """Make a job, encrypted with a password unless `encryption="off"` or `kms_key` is given; it is vouched for."""
    ensure_ring()
    number = next(_numbers)
    defaults: dict[str, Any] = {"name": f"job-{number}", "sources": [f"/srv/data-{number}"]}
    if "proxy" not in fields:
        defaults["proxy"] = make_proxy()
    if "repository" not in fields:
        defaults["repository"] = make_repository()
    if fields.get("kms_key") is not None:
        defaults["encryption"] = Encryption.KMS
    elif fields.get("encryption", Encryption.PASSWORD) == Encryption.PASSWORD and "password" not in fields:
        defaults["password"] = make_password()
    job = Job.objects.create(**{**defaults, **fields})
    if "protection_proof" not in fields:
        job.protection_proof = vouch_for(job, "protection_proof")
        job.save(update_fields=["protection_proof"])
    return job


def make_chain(job: Job | None = None, *, state: str = JobChainState.CURRENT, **fields: Any) -> Chain:
    """Make a chain of the job without points: in the job's repository, encrypted as the job is now."""
    job = job or make_job()
    delete_after_full = fields.pop("delete_after_full", False)
    defaults = {
        "repository": job.repository,
        "job_name": job.name,
        "encrypted": job.encryption != Encryption.OFF,
    }
    chain = Chain.objects.create(**{**defaults, **fields})
    JobChain.objects.create(job=job, chain=chain, state=state, delete_after_full=delete_after_full)
    return chain


def make_imported_chain(repository: Repository, **fields: Any) -> Chain:
    """Make a chain that no job wrote, without points."""
    defaults = {"repository": repository, "job_name": "a job elsewhere", "encrypted": True}
    return Chain.objects.create(**{**defaults, "imported_at": timezone.now(), **fields})


def make_point(
    chain: Chain | None = None, *, opens_with: PasswordVersion | KmsKeyVersion | None = None, **fields: Any
) -> RestorePoint:
    """Add the next point of a chain: a full if it is the first, else an incremental on the newest; a day after that.

    An encrypted point gets a slot for `opens_with`, or else for the newest version of the job's password or KMS key.
    """
    chain = chain or make_chain()
    last = chain.points.order_by("-sequence").first()
    kind = fields.get("kind", Kind.INCREMENTAL if last else Kind.FULL)
    started_at = fields.get("started_at", last.started_at + timedelta(days=1) if last else FIRST_POINT_AT)
    defaults = {
        "uuid": uuid.uuid4(),
        "sequence": last.sequence + 1 if last else 1,
        "kind": kind,
        "parent": last if kind == Kind.INCREMENTAL else None,
        "started_at": started_at,
        "sealed_at": started_at + timedelta(minutes=1),
        "size_bytes": 1_000_000 if kind == Kind.FULL else 10_000,
        "source_bytes": 4_000_000,
        "files": 100,
        "seal_hash": os.urandom(32),
    }
    point = RestorePoint.objects.create(chain=chain, **{**defaults, **fields})
    version = opens_with or _secret_of_job(chain)
    if chain.encrypted and version is not None:
        make_slot(point, version)
    return point


def make_slot(point: RestorePoint, version: PasswordVersion | KmsKeyVersion) -> Slot:
    if isinstance(version, KmsKeyVersion):
        fields: dict[str, Any] = {"kind": "kms", "record_uuid": version.key.uuid, "kms": version}
    else:
        fields = {"record_uuid": version.record.uuid, "password": version}
    return Slot.objects.create(point=point, version=version.number, **fields)


def _secret_of_job(chain: Chain) -> PasswordVersion | KmsKeyVersion | None:
    link = JobChain.objects.select_related("job__password", "job__kms_key").filter(chain=chain).first()
    record = (link.job.password or link.job.kms_key) if link else None
    return record.newest() if record else None


def make_session(job: Job | None = None, **fields: Any) -> Session:
    """Make a session row as it stands (waiting, unless told otherwise); nothing is queued."""
    defaults: dict[str, Any] = {"kind": SessionKind.BACKUP, "state": State.WAITING}
    if job is None and fields.get("kind", SessionKind.BACKUP) == SessionKind.BACKUP:
        job = make_job()
    if job is not None:
        defaults |= {"job": job, "job_name": job.name, "repository": job.repository, "proxy": job.proxy}
    elif "proxy" not in fields:
        defaults["proxy"] = make_proxy()
    return Session.objects.create(**{**defaults, **fields})


def make_pin(point: RestorePoint, session: Session | None = None, **fields: Any) -> Pin:
    """Let a running restore hold the point for another minute."""
    session = session or make_session(kind=SessionKind.RESTORE, state=State.RUNNING, source_point=point)
    defaults = {"lease_until": timezone.now() + timedelta(minutes=1)}
    return Pin.objects.create(point=point, session=session, **{**defaults, **fields})


def make_due_time(job: Job | None = None, **fields: Any) -> DueTime:
    return DueTime.objects.create(job=job or make_job(), **{"due_at": FIRST_POINT_AT, **fields})
