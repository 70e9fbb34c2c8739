"""The navigation of every page: one table of what there is, shown by rights and only where the address exists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import template
from django.template import Context
from django.urls import NoReverseMatch, reverse

from backupsite.roles import Right

register = template.Library()


@dataclass(frozen=True)
class Item:
    url_name: str
    label: str
    icon: str
    right: Right
    also: tuple[str, ...] = ()  # further beginnings of addresses that belong to this link


@dataclass(frozen=True)
class Link:
    url: str
    label: str
    icon: str
    current: bool


MENU: tuple[tuple[str, tuple[Item, ...]], ...] = (
    (
        "",
        (
            Item("dashboard", "Dashboard", "layout-dashboard", Right.SEE),
            Item("job_list", "Jobs", "archive", Right.SEE),
            Item("session_list", "Sessions", "activity", Right.SEE),
            Item("restore_start", "Restore", "undo-2", Right.RESTORE, ("/points/",)),
        ),
    ),
    (
        "Where and how",
        (
            Item("repository_list", "Repositories", "hard-drive", Right.SEE, ("/chains/",)),
            Item("lone_chains", "Detached chains", "unlink", Right.SEE),
            Item("password_list", "Keys", "key-round", Right.KEYS, ("/passwords/", "/recovery-keys/")),
            Item("proxy_list", "Proxies", "server", Right.SEE),
        ),
    ),
    (
        "People",
        (
            Item("user_list", "Users and roles", "users", Right.PEOPLE),
            Item("audit_list", "Audit", "scroll-text", Right.AUDIT),
            Item("settings", "Settings", "settings", Right.ADMINISTER),
        ),
    ),
)


@register.inclusion_tag("components/_menu.html", takes_context=True)
def menu(context: Context) -> dict[str, Any]:
    """{% menu %}: the groups of links that this person may follow."""
    request = context.get("request")
    return {"groups": groups(context.get("rights") or frozenset(), request.path if request else "/")}


def groups(rights: frozenset[str], page: str) -> list[tuple[str, list[Link]]]:
    """Return the groups that have a link for someone with `rights`; the link whose address begins `page` is current."""
    found = [
        (title, [(item, url) for item in items if item.right.value in rights and (url := address(item.url_name))])
        for title, items in MENU
    ]
    begins = [(begin, url) for _, links in found for item, url in links for begin in (url, *item.also)]
    here = max((pair for pair in begins if is_below(page, pair[0])), key=lambda pair: len(pair[0]), default=("", ""))[1]
    return [
        (title, [Link(url, item.label, item.icon, url == here) for item, url in links])
        for title, links in found
        if links
    ]


def is_below(page: str, url: str) -> bool:
    return page == url or (url != "/" and page.startswith(url))


def address(url_name: str) -> str:
    """Return the address, or nothing for a page that does not exist."""
    try:
        return reverse(url_name)
    except NoReverseMatch:
        return ""
