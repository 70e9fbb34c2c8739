"""`manage.py instance_keys`: make the key ring of a new console, and check that the ring fits the database."""

from django.core.management.base import BaseCommand, CommandError

from keys import sealing
from keys.crypto_sealed import CannotOpenSealed
from keys.models import PasswordVersion
from keys.passwords import kek_of


class Command(BaseCommand):
    help = "Makes the instance key ring where there is none, and checks that it opens what the database holds."

    def handle(self, *args: object, **options: object) -> None:
        newest = PasswordVersion.objects.order_by("-pk").first()
        if newest is not None and not sealing.ring_exists():
            raise CommandError(
                f"The instance keys are missing ({sealing.ring_path()}), but the database holds secrets sealed "
                "with them. Put the file back from your copy; a new one would not open them."
            )
        if sealing.ensure_ring():
            self.stdout.write(
                f"Instance keys made: {sealing.ring_path()}. Keep a copy of this file away from this machine."
            )
        sealing.ring()  # a ring that can't be read is found here, not at the first use
        if newest is not None:
            try:
                kek_of(newest)
            except CannotOpenSealed as error:
                raise CommandError(f"The instance keys do not fit this database. {error}") from None
