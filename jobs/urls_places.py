"""Addresses of repositories, proxies and key servers that need an answer from a proxy or start a session, or list what
depends on one.
"""

from django.urls import path

from jobs import import_views, kms_views, proxy_views, recovery_request_views, repository_views

urlpatterns = [
    path("repositories/new/", repository_views.repository_new, name="repository_new"),
    path("repositories/check/", repository_views.repository_check, name="repository_check"),
    path("repositories/<uuid:uuid>/edit/", repository_views.repository_edit, name="repository_edit"),
    path("repositories/<uuid:uuid>/room/", repository_views.repository_room, name="repository_room"),
    path("repositories/<uuid:uuid>/foreign/", import_views.foreign_chains, name="foreign_chains"),
    path("repositories/<uuid:uuid>/foreign/<uuid:chain>/", import_views.chain_import, name="chain_import"),
    path(
        "repositories/<uuid:uuid>/foreign/<uuid:chain>/request/",
        recovery_request_views.recovery_request_new,
        name="recovery_request_new",
    ),
    path("chains/<uuid:uuid>/forget/", import_views.chain_forget, name="chain_forget"),
    path("recovery-requests/<uuid:uuid>/", recovery_request_views.recovery_request, name="recovery_request"),
    path(
        "recovery-requests/<uuid:uuid>/file/",
        recovery_request_views.recovery_request_file,
        name="recovery_request_file",
    ),
    path("keys/kms/<uuid:uuid>/delete/", kms_views.kms_delete, name="kms_delete"),
    path("keys/kms/<uuid:uuid>/poll/", kms_views.kms_poll, name="kms_poll"),
    path("keys/kms/keys/<uuid:uuid>/usage/", kms_views.kms_usage, name="kms_usage"),
    path("keys/kms/keys/<uuid:uuid>/<int:number>/lost/", kms_views.kms_lost, name="kms_lost"),
    path("proxies/", proxy_views.proxy_list, name="proxy_list"),
    path("proxies/<uuid:uuid>/answer/", proxy_views.proxy_answer, name="proxy_answer"),
]
