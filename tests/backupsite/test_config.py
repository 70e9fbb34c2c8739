"""Every setting: what is taken, what is refused, and that a refusal is one line without a secret."""

from pathlib import Path

import pytest

from backupsite import config

HOME = {"BACKUPSITE_HOME": "/srv/state"}


def load(**values: str) -> config.Config:
    return config.load(HOME | values)


def refusal(**values: str) -> str:
    with pytest.raises(config.ConfigError) as caught:
        load(**values)
    return str(caught.value)


def test_defaults():
    chosen = load()
    assert (chosen.bind_host, chosen.bind_port, chosen.behind_proxy) == ("127.0.0.1", 8000, 0)
    assert chosen.public_origin == "http://127.0.0.1:8000"
    assert chosen.restore_roots == (Path("/srv/state/restores"),)
    assert chosen.embedded
    assert not chosen.https


def test_default_home_depends_on_the_user(monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert config.load({}).home == Path("/var/lib/backupsite")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert config.load({"HOME": "/home/alice"}).home == Path("/home/alice/.local/share/backupsite")
    assert config.load({"HOME": "/home/alice", "XDG_DATA_HOME": "/data"}).home == Path("/data/backupsite")


def test_an_empty_variable_is_an_unset_one():
    names = ["BACKUPSITE_BIND", "BACKUPSITE_ORIGIN", "BACKUPSITE_TLS_CERT", "BACKUPSITE_TLS_KEY", "DATABASE_URL"]
    names += ["BACKUPSITE_BEHIND_PROXY", "BACKUPSITE_RESTORE_ROOTS", "BACKUPSITE_ADMIN_PASSWORD"]
    assert load(**dict.fromkeys(names, "")) == load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKUPSITE_HOME", "relative/path"),
        ("BACKUPSITE_HOME", "/with\nbreak"),
        ("BACKUPSITE_BIND", "8000"),
        ("BACKUPSITE_BIND", ":8000"),
        ("BACKUPSITE_BIND", "127.0.0.1:0"),
        ("BACKUPSITE_BIND", "127.0.0.1:65536"),
        ("BACKUPSITE_BIND", "127.0.0.1:http"),
        ("BACKUPSITE_BIND", "127.0.0.256:8000"),
        ("BACKUPSITE_BIND", "::1:8000"),
        ("BACKUPSITE_BIND", "[::zz]:8000"),
        ("BACKUPSITE_BIND", "http://127.0.0.1:8000"),
        ("BACKUPSITE_ORIGIN", "backup.example.org"),
        ("BACKUPSITE_ORIGIN", "ftp://backup.example.org"),
        ("BACKUPSITE_ORIGIN", "https://"),
        ("BACKUPSITE_ORIGIN", "https://backup.example.org/console"),
        ("BACKUPSITE_ORIGIN", "https://user@backup.example.org"),
        ("BACKUPSITE_ORIGIN", "https://backup.example.org:port"),
        ("BACKUPSITE_ORIGIN", "https://backup.example.org?x=1"),
        ("BACKUPSITE_TLS_CERT", "cert.pem"),
        ("BACKUPSITE_TLS_KEY", "key.pem"),
        ("BACKUPSITE_BEHIND_PROXY", "yes"),
        ("BACKUPSITE_BEHIND_PROXY", "-1"),
        ("BACKUPSITE_BEHIND_PROXY", "10"),
        ("BACKUPSITE_RESTORE_ROOTS", "/ok:not-absolute"),
        ("BACKUPSITE_PASSWORD_AGE_DAYS", "0"),
        ("BACKUPSITE_PASSWORD_AGE_DAYS", "a year"),
        ("DATABASE_URL", "mysql://host/name"),
        ("DATABASE_URL", "postgresql://host"),
        ("DATABASE_URL", "postgresql://host:port/name"),
        ("DATABASE_URL", "postgresql://host/a/b"),
    ],
)
def test_a_malformed_setting_is_named_in_one_line(name, value):
    text = refusal(**{name: value})
    assert name in text
    assert "\n" not in text


def test_passwords_age_in_a_year_or_in_the_days_that_are_set():
    assert load().password_age_days == 365
    assert load(BACKUPSITE_PASSWORD_AGE_DAYS="90").password_age_days == 90


def test_bind_takes_names_and_both_families():
    assert config.parse_bind("localhost:80") == ("localhost", 80)
    assert config.parse_bind("[::1]:8443") == ("::1", 8443)
    assert load(BACKUPSITE_BIND="[::1]:8443").public_origin == "http://[::1]:8443"


@pytest.mark.parametrize("address", ["0.0.0.0:8000", "192.0.2.1:8000", "[::]:8000", "backup.example.org:8000"])
def test_only_loopback_is_served_without_tls(address):
    tls = {"BACKUPSITE_TLS_CERT": "/etc/cert.pem", "BACKUPSITE_TLS_KEY": "/etc/key.pem"}
    assert "BACKUPSITE_TLS_CERT" in refusal(BACKUPSITE_BIND=address)
    assert load(BACKUPSITE_BIND=address, **tls).https
    assert load(BACKUPSITE_BIND=address, BACKUPSITE_BEHIND_PROXY="1").behind_proxy == 1


@pytest.mark.parametrize("address", ["127.0.0.1:8000", "127.8.8.8:8000", "[::1]:8000", "localhost:8000"])
def test_loopback_needs_nothing(address):
    assert not load(BACKUPSITE_BIND=address).https


def test_certificate_and_key_go_together():
    assert "BACKUPSITE_TLS_KEY is missing" in refusal(BACKUPSITE_TLS_CERT="/etc/cert.pem")
    assert "BACKUPSITE_TLS_CERT is missing" in refusal(BACKUPSITE_TLS_KEY="/etc/key.pem")


def test_a_plain_origin_does_not_go_with_tls():
    tls = {"BACKUPSITE_TLS_CERT": "/etc/cert.pem", "BACKUPSITE_TLS_KEY": "/etc/key.pem"}
    assert "https://" in refusal(BACKUPSITE_ORIGIN="http://backup.example.org", **tls)


def test_origin_decides_hosts_links_and_cookies():
    chosen = load(BACKUPSITE_ORIGIN="https://Backup.Example.org:8443/", BACKUPSITE_BEHIND_PROXY="2")
    assert chosen.public_origin == "https://backup.example.org:8443"
    assert "backup.example.org" in chosen.allowed_hosts
    assert chosen.https


def test_allowed_hosts_never_hold_a_wildcard():
    tls = {"BACKUPSITE_TLS_CERT": "/etc/cert.pem", "BACKUPSITE_TLS_KEY": "/etc/key.pem"}
    hosts = load(BACKUPSITE_BIND="0.0.0.0:8000", **tls).allowed_hosts
    assert "localhost" in hosts
    assert not {"*", "0.0.0.0", ""} & set(hosts)


def test_database_url_is_read_whole():
    settings = config.database_settings(
        load(DATABASE_URL="postgresql://al%40ice:p%3Aw%2Fd@db.example.org:5433/back%20up?sslmode=require")
    )
    assert settings["NAME"] == "back up"
    assert settings["USER"] == "al@ice"
    assert settings["PASSWORD"] == "p:w/d"
    assert (settings["HOST"], settings["PORT"]) == ("db.example.org", "5433")
    assert settings["OPTIONS"] == {"sslmode": "require"}


def test_database_url_takes_a_socket_folder():
    settings = config.database_settings(load(DATABASE_URL="postgresql:///name?host=/run/postgresql"))
    assert (settings["HOST"], settings["PORT"], settings["NAME"]) == ("/run/postgresql", "", "name")


def test_without_database_url_the_embedded_postgres_is_used():
    settings = config.database_settings(load())
    assert settings["HOST"] == "/srv/state/postgres/socket"
    assert settings["NAME"] == settings["USER"] == "backupsite"


def test_no_secret_is_shown():
    values = {
        "DATABASE_URL": "postgresql://alice:topsecret@host/name",
        "BACKUPSITE_ADMIN_PASSWORD": "topsecret",
        "BACKUPSITE_INSTANCE_KEYS": "topsecret",
    }
    assert "topsecret" not in repr(load(**values))
    assert "topsecret" not in refusal(DATABASE_URL="postgresql://alice:topsecret@host:port/name")


def test_the_socket_path_fits_into_the_kernels_limit():
    for length in range(60, 200):
        home = Path("/" + "x" * length)
        path = config.socket_folder(home) / config.SOCKET_NAME
        assert len(str(path)) <= config.LONGEST_SOCKET_PATH_BYTES
    longest = config.LONGEST_SOCKET_PATH_BYTES - len("/postgres/socket/" + config.SOCKET_NAME) - 1
    assert config.socket_folder(Path("/" + "x" * longest)).is_relative_to("/" + "x" * longest)
    other = Path("/" + "x" * (longest + 1))
    assert not config.socket_folder(other).is_relative_to(other)
    assert config.socket_folder(other) == config.socket_folder(other)
    assert config.socket_folder(other) != config.socket_folder(Path("/" + "y" * (longest + 1)))
