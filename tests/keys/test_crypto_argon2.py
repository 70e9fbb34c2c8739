"""What a file wants derived is derived in a child: within bounds and a memory limit, one at a time, and it may die."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from keys import crypto_argon2, crypto_argon2_child
from keys.crypto_argon2 import derive_kek_for_file
from keys.crypto_errors import KdfFailed, KdfRefused
from keys.crypto_password import KdfParameters, derive_kek

CHEAP = KdfParameters(8 * 1024, 1, 1)
SALT = bytes(range(16))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(crypto_argon2, "_folder", lambda: tmp_path)
    return tmp_path


def lock_path(folder: Path) -> Path:
    return folder / f"backupsite-argon2-{os.geteuid()}.lock"


def use_child(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Let another program stand for the child."""
    (folder / "child.py").write_text(source)
    monkeypatch.setattr(crypto_argon2_child, "__file__", str(folder / "child.py"))


@pytest.mark.parametrize("parameters", [CHEAP, KdfParameters(9 * 1024, 2, 4), KdfParameters(64 * 1024, 1, 8)])
def test_the_key_is_the_one_that_is_derived_in_the_process(parameters: KdfParameters) -> None:
    password = "pässword \0 ".encode()
    derived = derive_kek_for_file(password, salt=SALT, parameters=parameters)
    assert derived == derive_kek(password, salt=SALT, parameters=parameters)


@pytest.mark.parametrize("memory_kib, iterations, lanes", [(1 << 21, 1, 1), (4096, 1, 1), (8192, 17, 1), (8192, 1, 9)])
def test_parameters_outside_the_bounds_start_nothing(
    monkeypatch: pytest.MonkeyPatch, memory_kib: int, iterations: int, lanes: int
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a child was started"))
    with pytest.raises(KdfRefused):
        derive_kek_for_file(b"a", salt=SALT, parameters=KdfParameters(memory_kib, iterations, lanes))
    with pytest.raises(KdfRefused):
        derive_kek_for_file(b"a", salt=b"short", parameters=CHEAP)


def test_the_password_is_in_no_argument_and_in_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, object]] = []
    run = subprocess.run

    def watched(command: list[str], **options: object) -> object:
        seen.append((command, options["env"]))
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    derive_kek_for_file(b"correct horse", salt=SALT, parameters=CHEAP)
    ((command, environment),) = seen
    assert "correct horse" not in repr((command, environment)) and SALT.hex() not in repr(command)
    assert "SECRET" not in repr(environment) and environment.keys() <= {"PATH", "PYTHONPATH", "MALLOC_ARENA_MAX"}


def test_the_child_takes_no_more_memory_than_its_limit() -> None:
    """With 40 MiB less than Argon2id needs it says so, and is not ended by the kernel with something else."""
    source = (
        f"import sys; sys.path.insert(0, {str(Path(crypto_argon2_child.__file__).parent)!r})\n"
        "import crypto_argon2_child as child\n"
        "child.OVERHEAD_BYTES, child.LANE_BYTES = -(40 << 20), 0\n"
        "sys.exit(child.main())"
    )
    order = crypto_argon2_child.HEADER.pack(32, 64 * 1024, 1, 1, SALT) + b"password"
    ended = subprocess.run([sys.executable, "-c", source], input=order, capture_output=True, check=False)
    assert (ended.returncode, ended.stdout) == (crypto_argon2_child.OUT_OF_MEMORY, b"")


@pytest.mark.parametrize(
    "source, said",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal 9"),
        ("import sys; sys.exit(3)", "did not give"),
        ("import sys; sys.exit(1)", "code 1"),
        ("print('short')", "code 0"),
        ("this is no program", "code 1"),
    ],
)
def test_a_child_that_dies_is_a_named_error(
    monkeypatch: pytest.MonkeyPatch, folder: Path, source: str, said: str
) -> None:
    use_child(monkeypatch, folder, source)
    with pytest.raises(KdfFailed, match=said) as caught:
        derive_kek_for_file(b"correct horse", salt=SALT, parameters=CHEAP)
    assert "correct horse" not in str(caught.value) and caught.value.code == "kdf-failed"


def test_a_child_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    use_child(monkeypatch, folder, "import signal; signal.pause()")
    monkeypatch.setattr(crypto_argon2, "_CHILD_SECONDS", 0.3)
    with pytest.raises(KdfFailed, match="did not end"):
        derive_kek_for_file(b"a", salt=SALT, parameters=CHEAP)


def test_one_at_a_time(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """While a child runs nobody else gets the lock; who does not get it in time says so."""
    run = subprocess.run
    tried = []

    def watched(command: list[str], **options: object) -> object:
        with lock_path(folder).open("rb") as other, pytest.raises(BlockingIOError):
            tried.append(1)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    derive_kek_for_file(b"a", salt=SALT, parameters=CHEAP)
    assert tried
    monkeypatch.setattr(crypto_argon2, "LOCK_WAIT_SECONDS", 0.0)
    with lock_path(folder).open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(KdfFailed, match="has not ended"):
            derive_kek_for_file(b"a", salt=SALT, parameters=CHEAP)
    derive_kek_for_file(b"a", salt=SALT, parameters=CHEAP)


@pytest.mark.parametrize("how", ["link", "hard link", "open to all", "folder", "fifo", "of somebody else"])
def test_a_lock_file_that_is_not_ours_alone_is_not_waited_for(folder: Path, how: str) -> None:
    """Somebody else could hold it for ever; the derivation goes on without the lock of the host."""
    path, other = lock_path(folder), folder / "other"
    other.touch(mode=0o600)
    if how == "link":
        path.symlink_to(other)
    elif how == "hard link":
        os.link(other, path)
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
        path.chmod(0o666)
    else:
        path.touch()
        path.chmod(0o666 if how == "open to all" else 0o600)
        if how == "of somebody else":
            if os.geteuid() != 0:
                pytest.skip("only root can give a file away")
            os.chown(path, 65534, 65534)
    assert crypto_argon2._lock_file() is None
    with other.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert len(derive_kek_for_file(b"a", salt=SALT, parameters=CHEAP)) == 32
