"""Segments, enrolled identities and indexes as tar and parquet whose bytes follow from their content."""

from pipeline.adapters.segments.writer import Segments

__all__ = ["Segments"]
