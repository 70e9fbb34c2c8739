"""`manage.py rotate_instance_key`: seal everything in the database under a new instance key, while the console runs."""

from __future__ import annotations

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError

from keys import rotation, sealing
from keys.crypto_sealed import KeyRing
from keys.ring_file import ring_text

PUT = """
Put this into {variable}, in place of what is there, for everything that starts with it:

{text}

"""
THEN = {
    rotation.Next.ADD: "Step 1 of 3. It holds a new key, which opens and does not seal yet. Restart every process of "
    "the console, and when all of them run with it, run this command with it again.",
    rotation.Next.ACTIVATE: "Step 2 of 3. The new key is now the active one. Restart every process of the console, and "
    "when all of them run with it, run this command with it again: it renews what the database holds.",
    rotation.Next.RENEW: "Step 3 of 3. Nothing is sealed under the old key any more, and it is no longer there. "
    "Restart every process of the console; keep the old ring as long as you keep older dumps of the database.",
}


class Command(BaseCommand):
    help = (
        "Adds a new instance key, seals every secret and renews every proof under it, and removes the old one. "
        "The console goes on running. Killed at any moment, everything opens, and running it again finishes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--resume", action="store_true", help="Finish a rotation that was killed; begin none.")
        parser.add_argument(
            "--settle-seconds",
            type=float,
            default=rotation.SETTLE_SECONDS,
            help="How long to wait for what is being written under the old key (default: %(default)s).",
        )

    def handle(self, *args: object, resume: bool, settle_seconds: float, **options: object) -> None:
        try:
            self._go_on(resume, settle_seconds)
        except OperationalError as error:
            said = " ".join(str(error).split())
            raise CommandError(
                f"The database does not answer ({said}). It must run: the console goes on meanwhile. Nothing is lost: "
                "run this command again to finish."
            ) from None

    def _go_on(self, resume: bool, settle_seconds: float) -> None:
        step = rotation.next_step_now()
        if resume and step is rotation.Next.ADD:
            self.stdout.write("No rotation is under way: the ring has one key.")
            return
        try:
            if sealing.in_environment():
                self._say_what_to_put(step, settle_seconds)
            else:
                rotation.rotate(self.stdout.write, settle_seconds=settle_seconds)
                self.stdout.write(
                    f"Done. Keep a copy of {sealing.ring_path()} away from this machine, and the old one as long as "
                    "you keep older dumps of the database."
                )
        except rotation.RowsStayClosed as error:
            raise CommandError("\n".join([*error.renewal.named, str(error)])) from None
        except (rotation.RotationRuns, OSError) as error:
            raise CommandError(f"{error} Nothing is lost: run this command again to finish.") from None

    def _say_what_to_put(self, step: rotation.Next, settle_seconds: float) -> None:
        if step is rotation.Next.RENEW:
            rotation.resume_in_environment(self.stdout.write, settle_seconds=settle_seconds)
        text = ring_text(next_ring(sealing.ring(), step))
        self.stdout.write(PUT.format(variable=sealing.VARIABLE, text=text) + THEN[step])


def next_ring(ring: KeyRing, step: rotation.Next) -> KeyRing:
    steps = {
        rotation.Next.ADD: KeyRing.with_another,
        rotation.Next.ACTIVATE: KeyRing.with_newest_active,
        rotation.Next.RENEW: KeyRing.with_active_only,
    }
    return steps[step](ring)
