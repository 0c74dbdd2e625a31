"""Measures: each adds named numbers to faces, one foreign model or formula per file."""
