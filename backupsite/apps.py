"""The site's own app: users, roles, audit; and the receivers of the sign-in signals."""

from django.apps import AppConfig


class BackupsiteConfig(AppConfig):
    name = "backupsite"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from backupsite import audit

        audit.listen_to_sign_ins()
