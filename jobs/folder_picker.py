"""The folders of a proxy, to be chosen from: what is in one, the way to it, and which of them a form can hold.

Paths travel as base64 of their bytes. The proxy itself lists the folder; who may look is decided in the view.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from backupsite.models import User
from jobs import questions
from jobs.models import Proxy

LIST_SECONDS = 5
ROOT = b"/"


def folders_of(proxy: Proxy, folder: bytes, by: User) -> dict[str, Any]:
    """Return what the folder picker shows: the way here, the folders in it, or why they cannot be listed."""
    parts = [part for part in folder.split(b"/") if part]
    way = [(b"/" + b"/".join(parts[: depth + 1])) for depth in range(len(parts))]
    shown: dict[str, Any] = {
        "path": folder.decode(errors="backslashreplace"),
        "value": value_of(folder),
        "crumbs": [
            {"name": part.decode(errors="backslashreplace"), "value": value_of(path)}
            for part, path in zip(parts, way, strict=True)
        ],
        "root": value_of(ROOT),
        "can_add": is_text(folder),
    }
    try:
        listed = questions.ask(proxy, "list_folder", {"path_b64": base64.b64encode(folder).decode()}, by, LIST_SECONDS)
    except (questions.NoAnswer, questions.Refused) as error:
        return {**shown, "error": str(error)}
    names = [(row["name"], base64.b64decode(row["name_b64"])) for row in listed["folders"]]
    return {
        **shown,
        "left_out": listed["left_out"],
        "folders": [
            {"name": name, "value": value_of(folder.rstrip(b"/") + b"/" + raw), "can_add": is_text(raw)}
            for name, raw in names
        ],
    }


def is_text(path: bytes) -> bool:
    """Tell whether the path can stand in a line of the form: UTF-8, without line breaks."""
    try:
        return path.decode().isprintable()
    except UnicodeDecodeError:
        return False


def value_of(path: bytes) -> str:
    return base64.urlsafe_b64encode(path).decode()


def folder_at(value: str) -> bytes:
    try:
        path = base64.urlsafe_b64decode(value)
    except (binascii.Error, ValueError):
        return ROOT
    return path if path.startswith(b"/") and b"\0" not in path else ROOT
