"""Which module talks to which kind of server. The packages that a kind needs are imported when one is used."""

from __future__ import annotations

from importlib.util import find_spec

from keys.kms.interface import Kms, KmsMissing, ServerAddress

HOW_TO_INSTALL = "Install them with “make kmip”, or: pip install --require-hashes -r requirements-kmip.txt"


def is_installed() -> bool:
    """Tell whether the packages for KMIP are there, without importing them."""
    return find_spec("kmip") is not None


def connect(address: ServerAddress) -> Kms:
    """Return a connection, not yet open: use it with `with`. Raises KmsMissing."""
    if address.kind != "kmip":
        raise KmsMissing(f"The KMS server {address} is of kind “{address.kind}”, which this version does not know.")
    if not is_installed():
        raise KmsMissing(f"The packages for KMIP servers are not installed. {HOW_TO_INSTALL}.")
    from keys.kms.kmip import Kmip

    return Kmip(address)
