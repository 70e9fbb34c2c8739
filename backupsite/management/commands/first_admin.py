"""`manage.py first_admin`: a new one-time link for the first administrator."""

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError, ProgrammingError

from backupsite import first_admin


class Command(BaseCommand):
    help = "Prints a new one-time link that makes the first administrator; earlier links end."

    def handle(self, *args: object, **options: object) -> None:
        try:
            link = first_admin.new_link(settings.BACKUPSITE.public_origin)
        except (OperationalError, ProgrammingError) as error:
            raise CommandError(f"Is the console running? {' '.join(str(error).split())}") from error
        if link is None:
            raise CommandError("There is a user already: an administrator makes further ones in the console.")
        self.stdout.write(link)
