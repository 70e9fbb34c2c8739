"""The form of a repository: what it is called, where it is, and whether it takes plain backups.

Whether the place can be used is the proxy's to say; it is asked by the views in `jobs`.
"""

from __future__ import annotations

import os.path

from django import forms
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import QueryDict

from repositories.models import Repository


class RepositoryForm(forms.Form):
    """`repository` is the one that is edited; its path stays once a chain was written there."""

    name = forms.CharField(label="Name", max_length=100)
    path = forms.CharField(
        label="Directory",
        max_length=1024,
        strip=False,
        widget=forms.TextInput(attrs={"class": "mono", "autocomplete": "off", "spellcheck": "false"}),
        help_text="An absolute path on the proxy, on a disk of its own if you can. It need not exist yet.",
    )
    requires_encryption = forms.BooleanField(
        label="Requires encryption",
        required=False,
        help_text="Takes encrypted backups only: jobs, sessions and the engine refuse to write plain files here.",
    )

    def __init__(self, data: QueryDict | None = None, *, repository: Repository | None = None) -> None:
        super().__init__(data, initial=_initial(repository) if repository else None)
        self.repository = repository
        if repository is not None and repository.chains.exists():
            self.fields["path"].disabled = True
            self.fields["path"].help_text = "Backup chains were written here, so the place stays."

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if self.others().filter(name__iexact=name).exists():
            raise ValidationError("Another repository has this name.")
        return name

    def clean_path(self) -> str:
        path = clean_path(self.cleaned_data["path"])
        for other in self.others():
            if is_within(path, other.path) or is_within(other.path, path):
                raise ValidationError(f"This overlaps with the repository {other.name} in {other.path}.")
        return path

    def others(self) -> QuerySet[Repository]:
        return Repository.objects.exclude(pk=self.repository.pk) if self.repository else Repository.objects.all()


def clean_path(typed: str) -> str:
    """Return the path in its shortest form; refuse what is no absolute path of one line."""
    if not typed.startswith("/"):
        raise ValidationError("Write an absolute path, one that begins with /.")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in typed):
        raise ValidationError("The path contains a line break or another control character.")
    path = "/" + os.path.normpath(typed).lstrip("/")
    if path == "/":
        raise ValidationError("The root of the file system cannot be a repository: choose a directory for it.")
    return path


def is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _initial(repository: Repository) -> dict[str, object]:
    return {
        "name": repository.name,
        "path": repository.path,
        "requires_encryption": repository.requires_encryption,
    }
