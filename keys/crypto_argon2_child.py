"""One key derivation in a process of its own, with a limit on its memory. Started by crypto_argon2.py only.

stdin: the parameters and the password; stdout: the key. Nothing is in the arguments or the environment, and nothing is
said about what went wrong but an exit code. It imports nothing of ours, so that it starts fast.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

HEADER = struct.Struct("<IIII16s")  # length of the key, memory in KiB, iterations, lanes, salt
OVERHEAD_BYTES = 48 << 20  # beside what Argon2id asks for: the allocator, and
LANE_BYTES = 16 << 20  # a stack for each lane, where these are threads
CPU_SECONDS = 300  # the dearest derivation that is allowed takes less than a minute
OUT_OF_MEMORY = 3


def main() -> int:
    raw = sys.stdin.buffer.read()
    length, memory_kib, iterations, lanes, salt = HEADER.unpack_from(raw)
    _limit(memory_kib * 1024 + OVERHEAD_BYTES + lanes * LANE_BYTES)
    try:
        kdf = Argon2id(salt=salt, length=length, iterations=iterations, lanes=lanes, memory_cost=memory_kib)
        key = kdf.derive(raw[HEADER.size :])
    except MemoryError:
        return OUT_OF_MEMORY
    sys.stdout.buffer.write(key)
    sys.stdout.buffer.flush()
    return 0


def _limit(more_bytes: int) -> None:
    """No more address space than now and so much; no core file; and the first to go where the host has no memory."""
    mapped_bytes = int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + more_bytes, mapped_bytes + more_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with suppress(OSError):  # not offered everywhere, and only a precaution
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    os._exit(main())  # nothing is left to be tidied up
