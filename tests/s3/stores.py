"""Stores for tests that need many: one connection for all of them, since making a client takes a tenth of a second."""

from __future__ import annotations

import copy
import functools
import os

from pipeline.adapters.stores import S3Store
from pipeline.adapters.stores.trouble import Patience
from tests.s3 import server


def store_at(uri: str, patience: Patience | None = None) -> S3Store:
    """Return a store at an address on the server that the environment names, probed once for all."""
    store = copy.copy(_opened(os.environ["AWS_ENDPOINT_URL"], patience))
    store.uri, store._root = uri, uri.removeprefix("s3://")
    return store


@functools.cache
def _opened(url: str, patience: Patience | None) -> S3Store:
    return S3Store(f"s3://{server.running().bucket()}/opened", patience=patience)
