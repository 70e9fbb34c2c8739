"""Every address of the console. Apps bring their own; the site adds sign-in, people, audit and health."""

from django.urls import URLPattern, URLResolver, include, path

from backupsite.health import healthz

urlpatterns: list[URLPattern | URLResolver] = [
    path("account/", include("allauth.account.urls")),
    path("healthz", healthz, name="healthz"),
]
