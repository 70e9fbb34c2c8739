"""`manage.py run`: the whole console on this machine; see `backupsite.supervisor`."""

import os

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backupsite.postgres_account import PostgresError
from backupsite.prepare import PrepareError
from backupsite.state_folder import StateFolderError
from backupsite.supervisor import StartError, Supervisor


class Command(BaseCommand):
    help = "Runs the whole console: Postgres, the web server, the clusters of the local proxy and the watchdog."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        os.environ.pop("BACKUPSITE_ADMIN_PASSWORD", None)  # settings has read it, and no child needs it
        try:
            Supervisor(settings.BACKUPSITE).run()
        except (PostgresError, PrepareError, StateFolderError, StartError) as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"{error.strerror}: {error.filename}") from error
