#!/usr/bin/env python3
"""Django's command line, and the first to say in one line what is wrong with a setting or the state folder."""

import os
import sys

from backupsite import config


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backupsite.settings")
    try:
        config.load(os.environ)
    except config.ConfigError as error:
        print(f"backupsite: {error}", file=sys.stderr)
        sys.exit(2)
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
