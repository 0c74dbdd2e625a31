"""Where bytes live: in memory (the model), in a local or mounted directory, in a bucket; whole or not at all."""

from pipeline.adapters.stores.local import LocalStore
from pipeline.adapters.stores.memory import MemoryStore
from pipeline.adapters.stores.opening import open_store
from pipeline.adapters.stores.prefixed import PrefixedStore
from pipeline.adapters.stores.remote import FsspecStore
from pipeline.adapters.stores.s3 import S3Store

__all__ = ["FsspecStore", "LocalStore", "MemoryStore", "PrefixedStore", "S3Store", "open_store"]
