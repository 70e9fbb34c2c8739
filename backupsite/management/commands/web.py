"""`manage.py web`: the web server alone."""

import os

from django.conf import settings
from django.core.management.base import BaseCommand

from backupsite import processes, web


class Command(BaseCommand):
    help = "Runs the web server alone."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        config = settings.BACKUPSITE
        processes.write_pid_file(config.run_folder / "web.pid", processes.this_process())
        descriptor = os.environ.get(web.LISTEN_VARIABLE)
        web.serve(config, int(descriptor) if descriptor else None)
