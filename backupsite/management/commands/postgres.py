"""`manage.py postgres`: the embedded Postgres alone, until TERM or INT."""

import os
import select
import signal

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backupsite import postgres, state_folder
from backupsite.postgres_account import PostgresError
from backupsite.supervisor import wake_up_on_signals


class Command(BaseCommand):
    help = "Runs the embedded Postgres alone."
    requires_system_checks = ()

    def handle(self, *args: object, **options: object) -> None:
        config = settings.BACKUPSITE
        if not config.embedded:
            raise CommandError("DATABASE_URL is set: the embedded Postgres is not used.")
        try:
            lock = state_folder.Lock(config.run_folder / "lock", "manage.py postgres")
            state_folder.check_room(config.home)
            run_until_stopped(postgres.place_of(config))
        except (PostgresError, state_folder.StateFolderError) as error:
            raise CommandError(str(error)) from error
        lock.release()


def run_until_stopped(place: postgres.Place) -> None:
    wanted: list[bool] = []
    with wake_up_on_signals(lambda: wanted.append(True)) as wake_up:
        server = postgres.start(place)
        try:
            server.wait_until_ready()
            server.ensure_database()
            while not wanted and server.process.poll() is None:
                select.select([wake_up], [], [])
                os.read(wake_up, 4096)
        finally:
            server.stop()
    if not wanted:
        raise PostgresError(f"Postgres ended by {signal.Signals(-server.process.returncode).name}.")
