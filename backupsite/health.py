"""Whether the console works: the answer of /healthz.

Holds what a working console consists of. A hung cluster is the watchdog's to find and end; here it is down once its
process is gone.
"""

from pathlib import Path

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.db import Error, connection
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from backupsite import processes

CLUSTERS = ("local", "local.quick", "control")
WATCHDOG = "watchdog"


def down(run_folder: Path) -> list[str]:
    """Return the names of what does not work."""
    gone = [] if database_answers() else ["database"]
    for name in (*CLUSTERS, WATCHDOG):
        process = processes.read_pid_file(run_folder / f"{name}.pid")
        if process is None or not process.alive():
            gone.append(name if name == WATCHDOG else f"cluster {name}")
    return gone


def database_answers() -> bool:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except Error:
        return False
    return True


@login_not_required
@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    names = down(settings.BACKUPSITE.run_folder)
    if not names:
        return JsonResponse({"status": "ok"})
    response = JsonResponse({"status": "down", "down": names}, status=503)
    response._has_been_logged = True  # type: ignore[attr-defined] # an answer, not a failure of the view
    return response
