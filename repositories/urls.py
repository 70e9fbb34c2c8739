"""Addresses of repositories and chains. What asks a proxy (add, edit, check, room) is in `jobs.urls_places`."""

from django.urls import path

from repositories import views

urlpatterns = [
    path("repositories/", views.repository_list, name="repository_list"),
    path("repositories/<uuid:uuid>/", views.repository_detail, name="repository_detail"),
    path("repositories/<uuid:uuid>/delete/", views.repository_delete, name="repository_delete"),
    path("chains/<uuid:uuid>/", views.chain_detail, name="chain_detail"),
]
