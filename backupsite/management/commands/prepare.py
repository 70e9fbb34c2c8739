"""`manage.py prepare`: tables, keys, static files and the first administrator's link, when the pieces run alone."""

import os

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backupsite.prepare import PrepareError, prepare, wait_for_database

STARTING_SECONDS = 30.0  # a database that is started at the same time


class Command(BaseCommand):
    help = "Brings the database, the instance keys and the static files up to this release; `run` does it by itself."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        os.environ.pop("BACKUPSITE_ADMIN_PASSWORD", None)
        config = settings.BACKUPSITE
        try:
            wait_for_database(STARTING_SECONDS)
            link = prepare(config.admin_password, config.public_origin)
        except PrepareError as error:
            raise CommandError(str(error)) from error
        if link is not None:
            self.stdout.write(f"Make the first administrator here (works once, for 24 hours): {link}")
