"""Addresses of repositories, proxies and key servers that need an answer from a proxy or start a session, or list what
depends on one.
"""

from django.urls import path

from jobs import kms_views, proxy_views, repository_views

urlpatterns = [
    path("repositories/new/", repository_views.repository_new, name="repository_new"),
    path("repositories/check/", repository_views.repository_check, name="repository_check"),
    path("repositories/<uuid:uuid>/edit/", repository_views.repository_edit, name="repository_edit"),
    path("repositories/<uuid:uuid>/room/", repository_views.repository_room, name="repository_room"),
    path("keys/kms/<uuid:uuid>/delete/", kms_views.kms_delete, name="kms_delete"),
    path("keys/kms/<uuid:uuid>/poll/", kms_views.kms_poll, name="kms_poll"),
    path("keys/kms/keys/<uuid:uuid>/usage/", kms_views.kms_usage, name="kms_usage"),
    path("keys/kms/keys/<uuid:uuid>/<int:number>/lost/", kms_views.kms_lost, name="kms_lost"),
    path("proxies/", proxy_views.proxy_list, name="proxy_list"),
    path("proxies/<uuid:uuid>/answer/", proxy_views.proxy_answer, name="proxy_answer"),
]
