"""What protects the backup files, in the job form: nothing, a password, or the key of a KMS server.

Secrets are write-only: their widgets never render a value. A key pair is made when the job is saved, by the view; until
then the job has a key without a row, as with a new password. What a choice means is asked of `planning` and
`consequences` by `job_preview`.
"""

from __future__ import annotations

from typing import Any

from django import forms

from backupsite.models import User
from jobs.custody import has_a_way_back
from jobs.models import Encryption, Job
from keys.forms import weak_warning
from keys.models import KmsKey, KmsServer, PasswordRecord
from keys.models.kms import CLOSED_FOR_GOOD
from keys.passwords import known_words
from keys.strength import estimate

NEW_PASSWORD = "new"  # noqa: S105  # the choice, not a password
SHORTEST_PASSWORD = 8


def _secret_field(label: str) -> forms.CharField:
    widget = forms.PasswordInput(render_value=False, attrs={"autocomplete": "new-password"})
    return forms.CharField(label=label, required=False, strip=False, max_length=1024, widget=widget)


class EncryptionFields(forms.Form):
    encryption = forms.ChoiceField(
        label="Encryption", choices=Encryption.choices, initial=Encryption.PASSWORD, widget=forms.RadioSelect
    )
    encryption_off_reason = forms.CharField(
        label="Why without encryption?",
        max_length=200,
        required=False,
        help_text="Needed when the job was encrypted. It is shown on the job and kept in the audit trail.",
    )
    password = forms.ChoiceField(label="Password", required=False)
    ask_password = forms.BooleanField(
        label="Ask for the password again before anything is restored or downloaded",
        required=False,
        help_text="Sessions and verifications go on without it.",
    )
    kms_server = forms.ChoiceField(
        label="KMS server",
        required=False,
        help_text="The server makes a key pair for this job when the job is saved, and keeps the private half.",
    )
    strict_custody = forms.BooleanField(
        label="Strict custody: keep no file key in this console",
        required=False,
        help_text="Every session, restore, verification and download then asks the server.",
    )
    new_name = forms.CharField(label="Name of the new password", max_length=100, required=False)
    new_hint = forms.CharField(
        label="Hint",
        max_length=200,
        required=False,
        help_text="Stands readable in every backup file: whoever holds a file reads it. Not the password itself.",
    )
    new_password = _secret_field("New password")
    new_password_again = _secret_field("The same again")
    new_weak_ok = forms.BooleanField(label="Take this weak password", required=False)
    is_weak = False  # the new password: then the form asks whether it is wanted
    job: Job
    user: User

    def offer_keys(self, user: User, job: Job) -> None:
        """Let those records be chosen that this user may use. Without a server nothing of a KMS is offered."""
        self.records = list(PasswordRecord.objects.visible_to(user))
        self.servers = list(KmsServer.objects.visible_to(user))
        self.choice("password").choices = [
            ("", "Choose a password"),
            *((str(record.uuid), _record_label(record)) for record in self.records),
            (NEW_PASSWORD, "A new password …"),
        ]
        self.choice("kms_server").choices = [
            ("", "Choose a server"),
            *((str(server.uuid), server.name) for server in self.servers),
        ]
        if not self.servers and job.encryption != Encryption.KMS:
            offered = [choice for choice in Encryption.choices if choice[0] != Encryption.KMS]
            self.choice("encryption").choices = offered

    def choice(self, name: str) -> forms.ChoiceField:
        field = self.fields[name]
        assert isinstance(field, forms.ChoiceField)
        return field

    def clean_keys(self, cleaned: dict[str, Any]) -> None:
        match cleaned.get("encryption"):
            case Encryption.PASSWORD:
                self._clean_password(cleaned)
            case Encryption.KMS:
                self._clean_kms(cleaned)
            case Encryption.OFF:
                self._clean_plain(cleaned)

    def _clean_password(self, cleaned: dict[str, Any]) -> None:
        choice = cleaned.get("password", "")
        if not choice and "password" not in self.errors:
            self.add_error("password", "Choose a password, or make a new one.")
        if choice == NEW_PASSWORD:
            self._clean_new_password(cleaned)

    def _clean_new_password(self, cleaned: dict[str, Any]) -> None:
        name, typed = cleaned.get("new_name", ""), cleaned.get("new_password", "")
        if not name and "new_name" not in self.errors:
            self.add_error("new_name", "Give the new password a name.")
        elif PasswordRecord.objects.filter(name=name).exists():
            self.add_error("new_name", "Another password has this name.")
        if len(typed) < SHORTEST_PASSWORD:
            self.add_error("new_password", f"Type at least {SHORTEST_PASSWORD} characters.")
        elif typed != cleaned.get("new_password_again", ""):
            self.add_error("new_password_again", "The two differ. Type both again.")
        if typed and typed in cleaned.get("new_hint", ""):
            self.add_error("new_hint", "The hint holds the password: it would stand readable in every backup file.")
        if not {"new_name", "new_hint", "new_password", "new_password_again"} & self.errors.keys():
            self._clean_strength(cleaned)

    def _clean_strength(self, cleaned: dict[str, Any]) -> None:
        known = known_words(cleaned["new_name"], cleaned["new_hint"], self.user)
        found = estimate(cleaned["new_password"], known)
        self.is_weak = found.is_weak
        if found.is_weak and not cleaned.get("new_weak_ok"):
            self.add_error("new_weak_ok", weak_warning(found))

    def _clean_kms(self, cleaned: dict[str, Any]) -> None:
        server = self.chosen_server()
        if server is None:
            if "kms_server" not in self.errors:
                self.add_error("kms_server", "Choose a server.")
        elif cleaned.get("strict_custody") and not has_a_way_back(server):
            self.add_error(
                "strict_custody",
                f"Strict custody is refused here: add a recovery key, or let sessions fail while {server.name} does "
                "not answer (its outage policy).",
            )

    def _clean_plain(self, cleaned: dict[str, Any]) -> None:
        repository = cleaned.get("repository")
        if repository is not None and repository.requires_encryption:
            self.add_error("encryption", f"The repository {repository.name} takes encrypted backups only.")
        if self.was_encrypted and not cleaned.get("encryption_off_reason"):
            self.add_error("encryption_off_reason", "Say why this job is no longer to be encrypted.")

    @property
    def was_encrypted(self) -> bool:
        return bool(self.job.pk) and self.initial.get("encryption") != Encryption.OFF

    @property
    def wants_new_password(self) -> bool:
        cleaned = self.cleaned_data
        return cleaned.get("encryption") == Encryption.PASSWORD and cleaned.get("password") == NEW_PASSWORD

    def chosen_record(self) -> PasswordRecord | None:
        """Return the chosen password; a new one is a record without a row yet."""
        if self.cleaned_data.get("encryption") != Encryption.PASSWORD:
            return None
        if self.wants_new_password:
            return PasswordRecord(name=self.cleaned_data.get("new_name") or "the new password")
        return next((r for r in self.records if str(r.uuid) == self.cleaned_data.get("password")), None)

    def chosen_server(self) -> KmsServer | None:
        if self.cleaned_data.get("encryption") != Encryption.KMS:
            return None
        return next((s for s in self.servers if str(s.uuid) == self.cleaned_data.get("kms_server")), None)

    def put_keys_on(self, job: Job) -> None:
        """Put what protects the job on it; what belongs to another way of protecting it is cleared."""
        server = self.chosen_server()
        job.password = self.chosen_record()
        job.kms_key = key_on(server, job) if server is not None else None
        if job.encryption != Encryption.OFF:
            job.encryption_off_reason = ""
        if job.encryption != Encryption.KMS:
            job.strict_custody = False
        if job.encryption != Encryption.PASSWORD:
            job.ask_password = False


def key_on(server: KmsServer, job: Job) -> KmsKey:
    """Return the job's key on a server; one that saving would make, or make again, has no row yet."""
    key = KmsKey.objects.select_related("server").filter(server=server, owner=job.uuid).first()
    if key is None or key.newest().state in CLOSED_FOR_GOOD:
        return KmsKey(server=server, owner=job.uuid, owner_name=job.name)
    return key


def initial_keys(job: Job) -> dict[str, str]:
    return {
        "password": str(job.password.uuid) if job.password else "",
        "kms_server": str(job.kms_key.server.uuid) if job.kms_key else "",
    }


def _record_label(record: PasswordRecord) -> str:
    return f"{record.name} (hint: {record.hint})" if record.hint else record.name
