"""Django's settings: one file. What differs between installations comes from the environment, through
`backupsite.config`.
"""

from __future__ import annotations

import os
from pathlib import Path

from csp.constants import SELF

from backupsite import config
from backupsite.secret_key import secret_key

BASE_DIR = Path(__file__).resolve().parent.parent
BACKUPSITE = config.load(os.environ)

SECRET_KEY = secret_key(BACKUPSITE.home)
DEBUG = False
ALLOWED_HOSTS = BACKUPSITE.allowed_hosts

INSTALLED_APPS = [
    "backupsite",
    "keys",
    "repositories",
    "jobs",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "django_htmx",
    "template_partials",
    "lucide",
    "csp",
    "django_q",
]

MIDDLEWARE = [
    "backupsite.middleware.TrustedHopsMiddleware",
    "backupsite.middleware.HealthForNobodyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "backupsite.middleware.HtmxSignInMiddleware",
    "backupsite.middleware.TimeZoneMiddleware",
]

ROOT_URLCONF = "backupsite.urls"
WSGI_APPLICATION = "backupsite.wsgi.application"
AUTH_USER_MODEL = "backupsite.User"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "backupsite.context.shell",
            ],
        },
    },
]

DATABASES = {"default": config.database_settings(BACKUPSITE)}

# Sign-in throttles are counted in Postgres, over all web processes; django-q2's guard writes twice a second, so it
# gets a cache of its own.
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "backupsite_cache"},
    "cluster": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "LOCATION": "cluster"},
}

# A session can take days, hence no timeout on the session cluster; `retry` only matters there if a worker died between
# fetching and claiming.
_CLUSTER_SHARED = {
    "orm": "default",
    "cache": "cluster",
    "scheduler": False,
    "ack_failures": True,
    "max_attempts": 1,
    "bulk": 1,
    "queue_limit": 1,
    "catch_up": False,
    "save_limit": 100,
    "poll": 0.5,
    "guard_cycle": 0.5,
    "log_level": "WARNING",
}
SESSION_WORKERS = 2
QUICK_TIMEOUT_SECONDS = 30
Q_CLUSTER = _CLUSTER_SHARED | {
    "name": "backupsite",
    "workers": 1,
    "timeout": 30,
    "retry": 90,
    "ALT_CLUSTERS": {
        "local": _CLUSTER_SHARED | {"workers": SESSION_WORKERS, "timeout": -1, "retry": 300},
        "local.quick": _CLUSTER_SHARED | {"workers": 2, "timeout": QUICK_TIMEOUT_SECONDS, "retry": 90, "poll": 0.1},
        "control": _CLUSTER_SHARED | {"workers": 2, "timeout": 60, "retry": 180, "scheduler": True},
    },
}

AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "dashboard"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "backupsite.sign_in.ClosedAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = False
ACCOUNT_RATE_LIMITS = {"login": "30/m/ip", "login_failed": "10/m/ip,5/300s/key"}

LANGUAGE_CODE = "en"
USE_I18N = True
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "backupsite" / "static"]
STATIC_ROOT = BACKUPSITE.home / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# The fixed content security policy: nothing inline, nothing from elsewhere.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "form-action": [SELF],
        "base-uri": ["'none'"],
        "object-src": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
# /healthz is asked from the machine itself, without TLS.
SECURE_SSL_REDIRECT = BACKUPSITE.https and (BACKUPSITE.tls or BACKUPSITE.behind_proxy > 0)
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = BACKUPSITE.https
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_ENGINE = "backupsite.sign_in_sessions"
CSRF_TRUSTED_ORIGINS = [BACKUPSITE.public_origin]
SECURE_HSTS_SECONDS = 31_536_000 if BACKUPSITE.https else 0
# HSTS for subdomains and the preload list would speak for hosts that are not ours.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 20_000  # a restore selection

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {"django-q": {"handlers": ["stderr"], "level": "WARNING", "propagate": False}},
}

# Sessions: the lease is renewed at a third of its length by the worker that supervises the session's process.
LEASE_SECONDS = float(os.environ.get("BACKUPSITE_LEASE_SECONDS", "60"))
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BACKUPSITE.behind_proxy else None
