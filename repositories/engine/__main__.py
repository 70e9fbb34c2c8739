"""`python -m repositories.engine`."""

from __future__ import annotations

import sys

from repositories.engine.own_process import prepare


def main() -> int:
    prepare()
    from repositories.engine.cli import main as run

    return run()


sys.exit(main())
