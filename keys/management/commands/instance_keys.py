"""`manage.py instance_keys`: make the key ring of a new console, and check that the ring fits the database."""

from django.core.management.base import BaseCommand, CommandError

from keys import sealing
from keys.ring_check import RingDoesNotFit, anything_sealed, check_fits


class Command(BaseCommand):
    help = "Makes the instance key ring where there is none, and checks that it opens what the database holds."

    def handle(self, *args: object, **options: object) -> None:
        if not sealing.ring_exists() and anything_sealed() is not None:
            raise CommandError(
                f"The instance keys are missing ({sealing.ring_path()}), but the database holds secrets sealed "
                "with them. Put the file back from your copy; a new one would not open them."
            )
        if sealing.ensure_ring():
            self.stdout.write(
                f"Instance keys made: {sealing.ring_path()}. Keep a copy of this file away from this machine."
            )
        try:
            warnings = check_fits()  # reads the ring, too: one that can't be read is found here
        except RingDoesNotFit as error:
            raise CommandError(str(error)) from None
        for warning in warnings:
            self.stderr.write(warning)
