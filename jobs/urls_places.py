"""Addresses of repositories and proxies that need an answer from a proxy, or list what depends on one."""

from django.urls import path

from jobs import import_views, proxy_views, repository_views

urlpatterns = [
    path("repositories/new/", repository_views.repository_new, name="repository_new"),
    path("repositories/check/", repository_views.repository_check, name="repository_check"),
    path("repositories/<uuid:uuid>/edit/", repository_views.repository_edit, name="repository_edit"),
    path("repositories/<uuid:uuid>/room/", repository_views.repository_room, name="repository_room"),
    path("repositories/<uuid:uuid>/foreign/", import_views.foreign_chains, name="foreign_chains"),
    path("repositories/<uuid:uuid>/foreign/<uuid:chain>/", import_views.chain_import, name="chain_import"),
    path("proxies/", proxy_views.proxy_list, name="proxy_list"),
    path("proxies/<uuid:uuid>/answer/", proxy_views.proxy_answer, name="proxy_answer"),
]
