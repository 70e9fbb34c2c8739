"""Forms of key management servers. Each certificate can be pasted or uploaded; a private key is write-only.

What a certificate has to be is decided in `keys.kms.certificates`; whether the server accepts it, by trying.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from django.utils import timezone

from keys.crypto_rsa import LEAST_BITS, MOST_BITS
from keys.kms.certificates import (
    CA,
    CERTIFICATE,
    LONGEST_PEM_BYTES,
    PRIVATE_KEY,
    BadCertificate,
    check_ca,
    check_client,
)
from keys.kms_records import Settings, Trust
from keys.models import KmsServer, Outage

BITS = [(LEAST_BITS, "RSA 3072"), (MOST_BITS, "RSA 4096: slower, for a policy that asks for it")]
_HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


def pem_fields(label: str, help_text: str = "", *, secret: bool = False) -> tuple[forms.CharField, forms.FileField]:
    """Return the two fields of a certificate or key: pasted text, and a file. A secret is not shown again."""
    shown = {"class": "mono", "rows": 4, "spellcheck": "false", "autocomplete": "off"}
    text = forms.CharField(
        label=label, required=False, strip=True, widget=WriteOnly(shown) if secret else forms.Textarea(shown)
    )
    file = forms.FileField(label=f"{label}, as a file instead", required=False, help_text=help_text)
    return text, file


class WriteOnly(forms.Textarea):
    """A text area that never gives back what was typed into it."""

    def get_context(self, name: str, value: Any, attrs: dict[str, Any] | None) -> dict[str, Any]:  # noqa: ANN401 - Django's own signature
        return super().get_context(name, "", attrs)


class PemForm(forms.Form):
    """Takes the pasted text or the uploaded file of each of `pems`, and reports on the pasted field."""

    pems: tuple[str, ...] = ()

    def given(self, name: str) -> str:
        """Return the PEM text of a field. Raises BadCertificate where it was given twice or not at all."""
        typed, file = self.cleaned_data.get(name, ""), self.cleaned_data.get(f"{name}_file")
        if typed and file:
            raise BadCertificate(name, "This was pasted and uploaded: do one of both.")
        return _text_of(name, file) if file else typed

    def complain(self, error: BadCertificate) -> None:
        self.add_error(error.field, str(error))


class TrustForm(PemForm):
    """Our certificate and its key."""

    certificate, certificate_file = pem_fields(
        "Client certificate", "PEM. With the usage “client authentication”; those that lead to its CA may follow."
    )
    private_key, private_key_file = pem_fields(
        "Private key of the client certificate", "PEM, without a passphrase. It is kept sealed, and never shown.",
        secret=True,
    )  # fmt: skip

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        try:
            pair = check_client(self.given(CERTIFICATE), self.given(PRIVATE_KEY), timezone.now())
            data[CERTIFICATE], data[PRIVATE_KEY] = pair
        except BadCertificate as error:
            self.complain(error)
        return data


class ServerForm(PemForm):
    """Where a server is, whom it must show itself to be, and how it is used; `server` is the one that is changed."""

    name = forms.CharField(label="Name", max_length=100, help_text="It stands readable in every backup file.")
    host = forms.CharField(label="Host", max_length=253, help_text="As it stands in the server's certificate.")
    port = forms.IntegerField(label="Port", min_value=1, max_value=65535, initial=5696)
    ca, ca_file = pem_fields(
        "CA of the server", "PEM: the certificates that the server's own must lead to. No others are trusted."
    )
    key_bits = forms.TypedChoiceField(label="New key pairs", coerce=int, choices=BITS, initial=LEAST_BITS)
    outage = forms.ChoiceField(
        label="While the server does not answer",
        choices=Outage.choices,
        initial=Outage.CACHED,
        widget=forms.RadioSelect,
    )

    def __init__(self, request: HttpRequest | None = None, *, server: KmsServer | None = None) -> None:
        data, files = (request.POST, request.FILES) if request and request.method == "POST" else (None, None)
        names = ("name", "host", "port", "ca", "key_bits", "outage")
        initial = {name: getattr(server, name) for name in names} if server else None
        super().__init__(data, files, initial=initial)
        self.server = server

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        others = KmsServer.objects.exclude(pk=self.server.pk) if self.server else KmsServer.objects.all()
        if others.filter(name__iexact=name).exists():
            raise ValidationError("Another KMS server has this name.")
        return name

    def clean_host(self) -> str:
        host: str = self.cleaned_data["host"].strip()
        if not (_HOST.fullmatch(host) or _is_address(host)):
            raise ValidationError(
                "This is not a host name or an address: give it alone, like kms.example.org: no “https://”, no port."
            )
        return host

    def clean(self) -> dict[str, Any]:
        data = super().clean() or {}
        try:
            data[CA] = check_ca(self.given(CA), timezone.now())
        except BadCertificate as error:
            self.complain(error)
        return data

    def settings(self) -> Settings:
        return Settings(**{name: self.cleaned_data[name] for name in ("name", "host", "port", "key_bits", "outage")})


class NewServerForm(ServerForm, TrustForm):
    field_order = (
        *("name", "host", "port", "ca", "ca_file", "certificate", "certificate_file"),
        *("private_key", "private_key_file", "key_bits", "outage"),
    )

    def trust(self) -> Trust:
        return Trust(*(self.cleaned_data[name] for name in (CA, CERTIFICATE, PRIVATE_KEY)))


def _text_of(name: str, file: UploadedFile[Any]) -> str:
    if (file.size or 0) > LONGEST_PEM_BYTES:
        raise BadCertificate(name, f"This file is longer than {LONGEST_PEM_BYTES // 1024} KiB.")
    content: bytes = file.read()
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        return content.decode("utf-8", "replace")  # no PEM: what is wrong with it is said by the check


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
