"""The report of a version: one HTML page that opens offline, from the facts of `pipeline.domain.report`."""

from __future__ import annotations

from pipeline.adapters.report.page import render

__all__ = ["render"]
