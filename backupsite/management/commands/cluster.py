"""`manage.py cluster NAME`: one django-q2 cluster alone.

`manage.py` puts the name into the environment before Django starts: django-q2 chooses its settings when it is imported.
"""

import os

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from backupsite import health, processes


class Command(BaseCommand):
    help = "Runs one cluster alone."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", choices=health.CLUSTERS)

    def handle(self, *args: object, name: str, **options: object) -> None:
        if os.environ.get("Q_CLUSTER_NAME") != name:
            raise CommandError("Start it as `manage.py cluster NAME`, with the name right behind the command.")
        from django_q.cluster import Cluster

        Cluster().start()  # returns once the workers run; the end of this process waits for them
        processes.write_pid_file(settings.BACKUPSITE.run_folder / f"{name}.pid", processes.this_process())
