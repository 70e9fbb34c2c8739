"""Where a restore goes and what happens to what is there. Whether the folder may be used is asked of the proxy by the
view.
"""

from __future__ import annotations

import posixpath

from django import forms

from jobs.byte_paths import unquoted

EXISTING = (
    ("skip", "Leave it as it is"),
    ("overwrite", "Replace it"),
    ("rename", "Restore beside it under another name"),
)


class RestoreForm(forms.Form):
    into = forms.CharField(
        label="Into the directory",
        max_length=1024,
        strip=False,
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false"}),
    )
    existing = forms.ChoiceField(
        label="When a file is there already", choices=EXISTING, initial="skip", widget=forms.RadioSelect
    )

    def clean_into(self) -> str:
        into: str = self.cleaned_data["into"]
        if not into.startswith("/") or any(not c.isprintable() for c in into):
            raise forms.ValidationError("Give an absolute path on the proxy: it begins with /.", code="relative")
        if ".." in into.split("/"):
            raise forms.ValidationError("Give the path without “..”.", code="dots")
        return "/" + posixpath.normpath(into).lstrip("/")


def selected(values: list[str]) -> list[bytes]:
    """Return the chosen paths, without those inside another; raises ValidationError for what no path can be."""
    try:
        paths = {unquoted(value) for value in values}
    except ValueError as error:
        raise forms.ValidationError("The selection holds something that is not a path.", code="path") from error
    return sorted(path for path in paths if not any(_inside(path, outer) for outer in paths))


def _inside(path: bytes, outer: bytes) -> bool:
    return path != outer and (not outer or path.startswith(outer + b"/"))
