"""Names of files on their way through URLs, pages and headers: any bytes, and nobody gets out of the header."""

from urllib.parse import quote_from_bytes

import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from jobs.byte_paths import crumbs, disposition, path_of, quoted, unquoted

HOSTILE = [
    b"plain.txt",
    b"caf\xc3\xa9.txt",
    b"not-utf8-\xff\xfe",
    b'quote".txt',
    b"new\nline\r\nSet-Cookie: a=b",
    b"<script>alert(1)</script>",
    b"semi;colon",
    b"100%25",
    b"back\\slash",
    b"plus+and space",
    b"\xe2\x80\xaetxt.exe",
    b"&amp=1",
    b"#hash?query",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_path_survives_the_url_byte_by_byte(name):
    path = b"srv/" + name
    request = RequestFactory().get(f"/?path={quoted(path)}&other=1")
    assert path_of(request) == path
    assert unquoted(quoted(path)) == path


def test_a_path_that_a_browser_quoted_more_survives_too():
    path = b"srv/a b/\xff"
    assert path_of(RequestFactory().get(f"/?path={quote_from_bytes(path, safe='')}")) == path


def test_no_path_is_the_top():
    assert path_of(RequestFactory().get("/")) == b""


@pytest.mark.parametrize("value", ["../etc", "a/../b", "a//b", "./a", "a/.", "a%00b", "%2e%2e/x"])
def test_what_no_path_can_be_is_refused(value):
    with pytest.raises(ValueError, match="not a path"):
        unquoted(value)


def test_crumbs_name_every_folder_on_the_way():
    assert [(crumb.name, crumb.quoted) for crumb in crumbs(b"srv/\xff/x y")] == [
        ("srv", "srv"),
        ("\\xff", "srv/%FF"),
        ("x y", "srv/%FF/x%20y"),
    ]


@pytest.mark.parametrize("name", [*HOSTILE, b"", b"." * 300, b"\x00"])
def test_a_name_cannot_leave_its_header(name):
    response = HttpResponse()
    response["Content-Disposition"] = disposition(name)  # Django refuses line breaks: none may be left
    header = response["Content-Disposition"]
    assert header.isascii() and header.isprintable()
    assert header.count('"') == 2
    assert header.startswith('attachment; filename="')


def test_the_header_carries_the_name_for_browsers_that_know_rfc_6266():
    assert disposition("café.txt".encode()) == "attachment; filename=\"caf_.txt\"; filename*=UTF-8''caf%C3%A9.txt"
