"""The web server: gunicorn with threads, on an address of ours or on a socket that the supervisor holds.

Decides how requests are taken; what answers them is Django's.
"""

import ssl
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from backupsite.config import Config, in_url

# The supervisor keeps the listening socket, so that a restart of the web server refuses nobody.
LISTEN_VARIABLE = "BACKUPSITE_LISTEN_FD"
PROCESSES = 2
THREADS = 8


class WebServer(BaseApplication):  # type: ignore[misc] # gunicorn has no annotations
    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        super().__init__()

    def load_config(self) -> None:
        for name, value in self.options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:  # noqa: ANN401 - a WSGI application
        from backupsite.wsgi import application

        return application


def options(config: Config, listen_descriptor: int | None) -> dict[str, Any]:
    bind = (
        f"{in_url(config.bind_host)}:{config.bind_port}" if listen_descriptor is None else f"fd://{listen_descriptor}"
    )
    chosen: dict[str, Any] = {
        "bind": bind,
        "workers": PROCESSES,
        "threads": THREADS,
        "worker_class": "gthread",
        "preload_app": True,
        "graceful_timeout": 5,
        "timeout": 60,
        "keepalive": 5,
        "loglevel": "warning",
        "proc_name": "backupsite",
        "control_socket_disable": True,
        # Whom Django believes is decided by BACKUPSITE_BEHIND_PROXY alone.
        "forwarded_allow_ips": "*" if config.behind_proxy else "",
    }
    if config.tls:
        chosen |= {"certfile": str(config.tls_cert), "keyfile": str(config.tls_key), "ssl_context": modern_tls}
    return chosen


def modern_tls(_config: object, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def serve(config: Config, listen_descriptor: int | None) -> None:
    """Serve until TERM."""
    WebServer(options(config, listen_descriptor)).run()
