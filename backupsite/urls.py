"""Every address of the console. Apps bring their own; the site adds sign-in, people, audit and health.

Of allauth's addresses only signing in and out exist: administrators make the accounts and set forgotten passwords.
"""

from allauth.account import views as account
from django.urls import URLPattern, URLResolver, include, path

from backupsite import health, views, views_audit

urlpatterns: list[URLPattern | URLResolver] = [
    path("healthz", health.healthz, name="healthz"),
    path("account/login/", account.login, name="account_login"),
    path("account/logout/", account.logout, name="account_logout"),
    path("account/inactive/", account.account_inactive, name="account_inactive"),
    path("first-admin/<str:token>/", views.first_administrator, name="first_admin"),
    path("profile/", views.profile, name="profile"),
    path("profile/password/", views.profile_password, name="profile_password"),
    path("users/", views.user_list, name="user_list"),
    path("users/new/", views.user_new, name="user_new"),
    path("users/<int:pk>/", views.user_detail, name="user_detail"),
    path("users/<int:pk>/password/", views.user_password, name="user_password"),
    path("users/<int:pk>/deactivate/", views.user_deactivate, name="user_deactivate"),
    path("users/<int:pk>/activate/", views.user_activate, name="user_activate"),
    path("audit/", views_audit.audit_list, name="audit_list"),
    path("settings/", views.settings, name="settings"),
    path("", include("keys.urls")),
    path("", include("jobs.urls")),
    path("", include("jobs.urls_keys")),
    path("", include("jobs.urls_places")),
    path("", include("repositories.urls")),
]
