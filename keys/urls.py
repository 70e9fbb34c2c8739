"""Addresses of the key records: passwords, key management servers, recovery keys."""

from django.urls import path

from keys import views, views_kms, views_recovery

urlpatterns = [
    path("keys/", views.password_list, name="password_list"),
    path("keys/new/", views.password_new, name="password_new"),
    path("keys/<uuid:uuid>/", views.password_detail, name="password_detail"),
    path("keys/<uuid:uuid>/edit/", views.password_edit, name="password_edit"),
    path("keys/<uuid:uuid>/change/", views.password_change, name="password_change"),
    path("keys/<uuid:uuid>/verify/", views.password_verify, name="password_verify"),
    path("keys/kms/", views_kms.kms_list, name="kms_list"),
    path("keys/kms/new/", views_kms.kms_new, name="kms_new"),
    path("keys/kms/<uuid:uuid>/", views_kms.kms_detail, name="kms_detail"),
    path("keys/kms/<uuid:uuid>/edit/", views_kms.kms_edit, name="kms_edit"),
    path("keys/kms/<uuid:uuid>/certificate/", views_kms.kms_certificate, name="kms_certificate"),
    path("keys/kms/<uuid:uuid>/test/", views_kms.kms_test, name="kms_test"),
    path("keys/kms/keys/<uuid:uuid>/rotate/", views_kms.kms_rotate, name="kms_rotate"),
    path("keys/recovery/", views_recovery.recovery_list, name="recovery_list"),
    path("keys/recovery/add/", views_recovery.recovery_add, name="recovery_add"),
    path("keys/recovery/make/", views_recovery.recovery_make, name="recovery_make"),
    path("keys/recovery/<uuid:uuid>/", views_recovery.recovery_detail, name="recovery_detail"),
    path("keys/recovery/<uuid:uuid>/custody/", views_recovery.recovery_custody, name="recovery_custody"),
    path("keys/recovery/<uuid:uuid>/challenge/", views_recovery.recovery_challenge, name="recovery_challenge"),
    path(
        "keys/recovery/<uuid:uuid>/challenge.txt",
        views_recovery.recovery_challenge_file,
        name="recovery_challenge_file",
    ),
    path("keys/recovery/<uuid:uuid>/retire/", views_recovery.recovery_retire, name="recovery_retire"),
    path("keys/recovery/<uuid:uuid>/take-back/", views_recovery.recovery_take_back, name="recovery_take_back"),
    path("keys/recovery/<uuid:uuid>/delete/", views_recovery.recovery_delete, name="recovery_delete"),
]
