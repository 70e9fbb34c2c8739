"""`python -m repositories.engine`."""

from __future__ import annotations

import sys

from repositories.engine.cli import main

sys.exit(main())
