"""What the environment decides: every BACKUPSITE_ variable and DATABASE_URL, parsed once into a frozen Config.

Holds the names, defaults and refusals of the settings, and the places below the state folder that several processes
must agree on. Touches no file: whether a folder can be used, a port is free or a certificate opens is found by the
supervisor.
"""

import hashlib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

DATABASE_NAME = "backupsite"
DATABASE_USER = "backupsite"
# The kernel's sun_path has 108 bytes with the final zero; Postgres appends this name to its socket folder.
SOCKET_NAME = ".s.PGSQL.5432"
LONGEST_SOCKET_PATH_BYTES = 107

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
FALSE_WORDS = frozenset({"", "0", "no", "off", "false"})


class ConfigError(Exception):
    """A setting that cannot be used. str() is one line that names the variable and says what to write."""


@dataclass(frozen=True)
class Config:
    home: Path
    bind_host: str
    bind_port: int
    origin: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: int = 0  # how many reverse proxies in front of the console are trusted
    restore_roots: tuple[Path, ...] = ()
    password_age_days: int = 365  # older password versions are shown as ageing
    database_url: str | None = field(default=None, repr=False)
    admin_password: str | None = field(default=None, repr=False)
    instance_keys: str | None = field(default=None, repr=False)  # the key ring itself, when it is not kept in a file

    @property
    def run_folder(self) -> Path:
        """Pid files, the state-folder lock; nothing that has to survive a restart."""
        return self.home / "run"

    @property
    def instance_keys_path(self) -> Path:
        return self.home / "instance-keys"

    @property
    def postgres_folder(self) -> Path:
        """Data folders and program copies of the embedded Postgres, one of each per major version."""
        return self.home / "postgres"

    @property
    def socket_folder(self) -> Path:
        return socket_folder(self.home)

    @property
    def database_name(self) -> str:
        return DATABASE_NAME

    @property
    def embedded(self) -> bool:
        """Whether the database is our own Postgres below the state folder."""
        return self.database_url is None

    @property
    def tls(self) -> bool:
        return self.tls_cert is not None

    @property
    def https(self) -> bool:
        """Whether browsers reach the console by https: cookies are then marked secure."""
        if self.origin is not None:
            return self.origin.startswith("https://")
        return self.tls

    @property
    def public_origin(self) -> str:
        """Scheme and host of the links we print, without a final slash."""
        if self.origin is not None:
            return self.origin
        host = self.bind_host
        if is_wildcard(host):
            host = socket.gethostname()
        return f"{'https' if self.tls else 'http'}://{in_url(host)}:{self.bind_port}"

    @property
    def allowed_hosts(self) -> list[str]:
        """The Host headers that are answered: loopback (for health checks), the bound address, the origin's host."""
        hosts = list(LOOPBACK_NAMES)
        if self.origin is not None:
            hosts.append(in_url(urlsplit(self.origin).hostname or ""))
        elif is_wildcard(self.bind_host):
            hosts += [socket.gethostname(), socket.getfqdn()]
        if not is_wildcard(self.bind_host):
            hosts.append(in_url(self.bind_host))
        return list(dict.fromkeys(hosts))


def load(environ: Mapping[str, str]) -> Config:
    """Return the settings of `environ`. Raises ConfigError at the first one that cannot be used."""
    host, port = parse_bind(environ.get("BACKUPSITE_BIND") or "127.0.0.1:8000")
    home = parse_home(environ)
    config = Config(
        home=home,
        bind_host=host,
        bind_port=port,
        origin=parse_origin(environ.get("BACKUPSITE_ORIGIN") or ""),
        tls_cert=parse_path(environ, "BACKUPSITE_TLS_CERT"),
        tls_key=parse_path(environ, "BACKUPSITE_TLS_KEY"),
        behind_proxy=parse_hops(environ.get("BACKUPSITE_BEHIND_PROXY") or ""),
        restore_roots=parse_restore_roots(environ.get("BACKUPSITE_RESTORE_ROOTS") or "", home),
        password_age_days=parse_days(environ, "BACKUPSITE_PASSWORD_AGE_DAYS", 365),
        database_url=parse_database_url(environ.get("DATABASE_URL") or ""),
        admin_password=environ.get("BACKUPSITE_ADMIN_PASSWORD") or None,
        instance_keys=environ.get("BACKUPSITE_INSTANCE_KEYS") or None,
    )
    check_together(config)
    return config


def check_together(config: Config) -> None:
    """Refuse settings that are each right and together wrong."""
    if (config.tls_cert is None) != (config.tls_key is None):
        missing = "BACKUPSITE_TLS_KEY" if config.tls_key is None else "BACKUPSITE_TLS_CERT"
        raise ConfigError(f"{missing} is missing: BACKUPSITE_TLS_CERT and BACKUPSITE_TLS_KEY go together.")
    if not is_loopback(config.bind_host) and not config.tls and not config.behind_proxy:
        raise ConfigError(
            f"BACKUPSITE_BIND={in_url(config.bind_host)}:{config.bind_port} would send passwords in clear text: "
            "set BACKUPSITE_TLS_CERT and BACKUPSITE_TLS_KEY, or BACKUPSITE_BEHIND_PROXY, or bind 127.0.0.1."
        )
    if config.tls and config.origin is not None and not config.https:
        raise ConfigError(f"BACKUPSITE_ORIGIN={config.origin} must begin with https:// with BACKUPSITE_TLS_CERT.")


def database_settings(config: Config) -> dict[str, Any]:
    """Return Django's DATABASES entry: that of DATABASE_URL, or the embedded Postgres."""
    common = {"ENGINE": "django.db.backends.postgresql", "CONN_HEALTH_CHECKS": True}
    if config.database_url is not None:
        return common | read_database_url(config.database_url)
    return common | {
        "NAME": DATABASE_NAME,
        "USER": DATABASE_USER,
        "PASSWORD": "",
        "HOST": str(config.socket_folder),
        "PORT": "5432",
        "OPTIONS": {},
    }


def socket_folder(home: Path) -> Path:
    """Return where the embedded Postgres puts its socket: below `home`, or a short path where that is too long."""
    inside = home / "postgres" / "socket"
    if len(os.fsencode(inside)) + 1 + len(SOCKET_NAME) <= LONGEST_SOCKET_PATH_BYTES:
        return inside
    name = hashlib.sha256(os.fsencode(home)).hexdigest()[:16]
    base = Path("/run") if os.geteuid() == 0 else Path("/tmp")  # noqa: S108 - its owner and mode are checked before use
    return base / f"backupsite-{os.geteuid()}-{name}"


def parse_home(environ: Mapping[str, str]) -> Path:
    value = environ.get("BACKUPSITE_HOME") or ""
    if not value:
        return default_home(environ)
    if "\0" in value or "\n" in value:
        raise ConfigError("BACKUPSITE_HOME contains a line break or a zero byte: write the path of a folder.")
    path = Path(value)
    if not path.is_absolute():
        raise ConfigError(f"BACKUPSITE_HOME={value} is not an absolute path: write one like /var/lib/backupsite.")
    return Path(os.path.realpath(path))


def default_home(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/backupsite")
    data = environ.get("XDG_DATA_HOME") or ""
    base = Path(data) if data.startswith("/") else Path(environ.get("HOME") or Path.home()) / ".local" / "share"
    return Path(os.path.realpath(base / "backupsite"))


def parse_bind(value: str) -> tuple[str, int]:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+)):([0-9]{1,5})", value)
    if match is None:
        raise ConfigError(
            f"BACKUPSITE_BIND={value!r} is not an address: write HOST:PORT, like 127.0.0.1:8000 or [::1]:8000."
        )
    host, port = match[1] or match[2], int(match[3])
    if match[1] is not None and not is_ip_address(host):
        raise ConfigError(f"BACKUPSITE_BIND={value!r}: {host} is not an IPv6 address.")
    if match[1] is None and re.fullmatch(r"[0-9.]+", host) and not is_ip_address(host):
        raise ConfigError(f"BACKUPSITE_BIND={value!r}: {host} is not an IPv4 address.")
    if not 1 <= port <= 65535:
        raise ConfigError(f"BACKUPSITE_BIND={value!r}: the port must be between 1 and 65535.")
    return host, port


def parse_origin(value: str) -> str | None:
    if not value:
        return None
    parts = split_url(value)
    usable = (
        parts is not None
        and parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and parts.username is None
        and parts.path in {"", "/"}
        and not parts.query
        and not parts.fragment
    )
    if parts is None or not usable:
        raise ConfigError(f"BACKUPSITE_ORIGIN={value!r} is not an origin: write one like https://backup.example.org.")
    return f"{parts.scheme}://{parts.netloc}".lower()


def parse_path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name) or ""
    if not value:
        return None
    if not value.startswith("/") or "\0" in value or "\n" in value:
        raise ConfigError(f"{name}={value!r} is not an absolute path.")
    return Path(value)


def parse_hops(value: str) -> int:
    if value.lower() in FALSE_WORDS:
        return 0
    if not re.fullmatch(r"[1-9]", value):
        raise ConfigError(f"BACKUPSITE_BEHIND_PROXY={value!r} is not a number of trusted proxies, 1 to 9.")
    return int(value)


def parse_days(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name) or str(default)
    if not re.fullmatch(r"[1-9][0-9]{0,4}", value):
        raise ConfigError(f"{name}={value!r} is not a number of days, 1 to 99999.")
    return int(value)


def parse_restore_roots(value: str, home: Path) -> tuple[Path, ...]:
    roots = [part for part in value.split(":") if part]
    for root in roots:
        if not root.startswith("/"):
            raise ConfigError(f"BACKUPSITE_RESTORE_ROOTS: {root!r} is not an absolute path; colons separate folders.")
    return tuple(Path(os.path.realpath(root)) for root in roots) or (home / "restores",)


def parse_database_url(value: str) -> str | None:
    if not value:
        return None
    read_database_url(value)
    return value


def read_database_url(value: str) -> dict[str, Any]:
    """Return Django's names for the parts of postgresql://user:password@host:port/name?option=value.

    An error never repeats the value: it holds a password.
    """
    parts = split_url(value)
    if parts is None or parts.scheme not in {"postgres", "postgresql"}:
        raise ConfigError("DATABASE_URL must look like postgresql://user:password@host:5432/name.")
    options = dict(parse_qsl(parts.query))
    name = unquote(parts.path.removeprefix("/"))
    if not name or "/" in name:
        raise ConfigError(
            "DATABASE_URL names no database: write it after the host, as in postgresql://host/backupsite."
        )
    return {
        "NAME": name,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(options.pop("port", "") or parts.port or ""),
        "OPTIONS": options,
    }


def split_url(value: str) -> SplitResult | None:
    """Return the parts, or None for what is no URL; reading .port here finds a wrong port early."""
    if re.search(r"[\s\x00-\x1f]", value):
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def is_ip_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    return host == "localhost" or (is_ip_address(host) and ipaddress.ip_address(host).is_loopback)


def is_wildcard(host: str) -> bool:
    return is_ip_address(host) and ipaddress.ip_address(host).is_unspecified


def in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
