"""Addresses of what looks at keys and points together: the map, what if, declaring lost, rewrap."""

from django.urls import path

from jobs import key_map_views, rewrap_views

urlpatterns = [
    path("keys/map/", key_map_views.key_map, name="key_map"),
    path("keys/map.csv", key_map_views.key_map_csv, name="key_map_csv"),
    path("keys/what-if/<str:kind>/<uuid:uuid>/", key_map_views.what_if, name="what_if"),
    path("keys/what-if/<str:kind>/<uuid:uuid>.csv", key_map_views.what_if_csv, name="what_if_csv"),
    path("keys/<uuid:uuid>/lost/", key_map_views.password_lost, name="password_lost"),
    path("keys/<uuid:uuid>/found/", key_map_views.password_found, name="password_found"),
    path("rewrap/chain/<uuid:uuid>/", rewrap_views.rewrap_chain, name="rewrap_chain"),
    path("rewrap/password/<uuid:uuid>/", rewrap_views.rewrap_for_password, name="rewrap_for_password"),
    path("rewrap/kms-key/<uuid:uuid>/", rewrap_views.rewrap_for_kms_key, name="rewrap_for_kms_key"),
    path("rewrap/recovery-key/<uuid:uuid>/", rewrap_views.rewrap_for_recovery_key, name="rewrap_for_recovery_key"),
    path("sessions/<uuid:uuid>/stop-rewrap/", rewrap_views.rewrap_stop, name="rewrap_stop"),
]
