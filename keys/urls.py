"""Addresses of the key records: passwords, and key management servers."""

from django.urls import path

from keys import views, views_kms

urlpatterns = [
    path("keys/", views.password_list, name="password_list"),
    path("keys/new/", views.password_new, name="password_new"),
    path("keys/<uuid:uuid>/", views.password_detail, name="password_detail"),
    path("keys/<uuid:uuid>/edit/", views.password_edit, name="password_edit"),
    path("keys/<uuid:uuid>/change/", views.password_change, name="password_change"),
    path("keys/<uuid:uuid>/verify/", views.password_verify, name="password_verify"),
    path("keys/<uuid:uuid>/delete/", views.password_delete, name="password_delete"),
    path("keys/kms/", views_kms.kms_list, name="kms_list"),
    path("keys/kms/new/", views_kms.kms_new, name="kms_new"),
    path("keys/kms/<uuid:uuid>/", views_kms.kms_detail, name="kms_detail"),
    path("keys/kms/<uuid:uuid>/edit/", views_kms.kms_edit, name="kms_edit"),
    path("keys/kms/<uuid:uuid>/certificate/", views_kms.kms_certificate, name="kms_certificate"),
    path("keys/kms/<uuid:uuid>/test/", views_kms.kms_test, name="kms_test"),
    path("keys/kms/keys/<uuid:uuid>/rotate/", views_kms.kms_rotate, name="kms_rotate"),
]
