"""`manage.py upgrade_postgres`: the data of the embedded Postgres, in the newest major version."""

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backupsite import postgres, state_folder
from backupsite.postgres_account import PostgresError
from backupsite.postgres_upgrade import upgrade


class Command(BaseCommand):
    help = "Moves the embedded Postgres to the newest major version; the console must be stopped."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        config = settings.BACKUPSITE
        if not config.embedded:
            raise CommandError("DATABASE_URL is set: the embedded Postgres is not used.")
        place = postgres.place_of(config)
        try:
            lock = state_folder.Lock(config.run_folder / "lock", "manage.py upgrade_postgres")
            versions = upgrade(place)
        except (PostgresError, state_folder.StateFolderError) as error:
            raise CommandError(str(error)) from error
        lock.release()
        if versions is None:
            self.stdout.write(f"Postgres {postgres.NEWEST} is the newest: there is nothing to do.")
        else:
            before, after = versions
            kept = place.version_folder(before)
            self.stdout.write(
                f"Postgres {before} became {after}. The old data stays in {kept}: remove it when all is well."
            )
