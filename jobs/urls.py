"""The addresses of jobs, sessions, restores and of what looks across everything."""

from django.urls import path

from jobs import (
    chain_views,
    dashboard_views,
    job_form_views,
    job_views,
    key_usage_views,
    password_views,
    restore_views,
    session_views,
)

urlpatterns = [
    path("", dashboard_views.dashboard, name="dashboard"),
    path("fill/", dashboard_views.repository_fill, name="repository_fill"),
    path("jobs/", job_views.job_list, name="job_list"),
    path("jobs/new/", job_form_views.job_new, name="job_new"),
    path("jobs/<uuid:uuid>/", job_views.job_detail, name="job_detail"),
    path("jobs/<uuid:uuid>/edit/", job_form_views.job_edit, name="job_edit"),
    path("jobs/<uuid:uuid>/run/", job_views.job_run, name="job_run"),
    path("jobs/<uuid:uuid>/full/", job_views.job_full, name="job_full"),
    path("jobs/<uuid:uuid>/new-chain/", job_views.job_new_chain, name="job_new_chain"),
    path("jobs/<uuid:uuid>/pause/", job_views.job_pause, name="job_pause"),
    path("jobs/<uuid:uuid>/resume/", job_views.job_resume, name="job_resume"),
    path("jobs/<uuid:uuid>/delete/", job_views.job_delete, name="job_delete"),
    path("jobs/<uuid:uuid>/chains/<uuid:chain>/detach/", chain_views.chain_detach, name="chain_detach"),
    path("chains/detached/", chain_views.lone_chains, name="lone_chains"),
    path("chains/<uuid:uuid>/expiry/", chain_views.chain_expiry, name="chain_expiry"),
    path("chains/<uuid:uuid>/delete/", chain_views.chain_delete, name="chain_delete"),
    path("sessions/", session_views.session_list, name="session_list"),
    path("sessions/missed/", session_views.missed_list, name="missed_list"),
    path("sessions/<uuid:uuid>/", session_views.session_detail, name="session_detail"),
    path("sessions/<uuid:uuid>/stop/", session_views.session_stop, name="session_stop"),
    path("sessions/<uuid:uuid>/stop-restore/", session_views.restore_stop, name="restore_stop"),
    path("sessions/<uuid:uuid>/retry/", session_views.session_retry, name="session_retry"),
    path("restore/", restore_views.restore_start, name="restore_start"),
    path("points/<uuid:uuid>/", restore_views.point_detail, name="point_detail"),
    path("points/<uuid:uuid>/verify/", restore_views.point_verify, name="point_verify"),
    path("points/<uuid:uuid>/browse/", restore_views.point_browse, name="point_browse"),
    path("points/<uuid:uuid>/download/", restore_views.point_download, name="point_download"),
    path("points/<uuid:uuid>/restore/", restore_views.point_restore, name="point_restore"),
    path("passwords/<uuid:uuid>/usage/", key_usage_views.password_usage, name="password_usage"),
    path("passwords/<uuid:uuid>/outlook/", password_views.password_outlook, name="password_outlook"),
    path("passwords/<uuid:uuid>/delete/", password_views.password_delete, name="password_delete"),
    path("recovery-keys/<uuid:uuid>/usage/", key_usage_views.recovery_usage, name="recovery_usage"),
]
