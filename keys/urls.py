"""Addresses of the password records."""

from django.urls import path

from keys import views

urlpatterns = [
    path("keys/", views.password_list, name="password_list"),
    path("keys/new/", views.password_new, name="password_new"),
    path("keys/<uuid:uuid>/", views.password_detail, name="password_detail"),
    path("keys/<uuid:uuid>/edit/", views.password_edit, name="password_edit"),
    path("keys/<uuid:uuid>/change/", views.password_change, name="password_change"),
    path("keys/<uuid:uuid>/verify/", views.password_verify, name="password_verify"),
]
