#!/usr/bin/env python3
"""Django's command line, and the first to say in one line what is wrong with a setting or the state folder."""

import os
import sys

from backupsite import config, state_folder


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "backupsite.settings")
    if sys.argv[1:2] == ["cluster"]:
        os.environ["Q_CLUSTER_NAME"] = "".join(sys.argv[2:3])  # django-q2 reads it when it is imported
    try:
        state_folder.prepare(config.load(os.environ).home)
    except (config.ConfigError, state_folder.StateFolderError) as error:
        print(f"backupsite: {error}", file=sys.stderr)
        sys.exit(2)
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
