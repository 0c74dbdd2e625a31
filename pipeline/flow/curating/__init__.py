"""Curating images that exist already: list, ingest, clean, write. Told in ports only."""
