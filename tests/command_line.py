"""The command line as tests run it, in this process: how a command ends, what it prints, and how it refuses."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from jobs.cli import app
from pipeline.domain.errors import FacemintError


def facemint(*arguments: object) -> Any:
    """Run a command; return its exit status, what it printed and the exception that it ended with."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def printed(*arguments: object) -> str:
    """Return what a command prints; its errors are raised, as `facemint` itself would see them."""
    done = facemint(*arguments)
    if isinstance(done.exception, FacemintError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    out: str = done.stdout
    return out


def facts_of(*arguments: object) -> Any:
    """Return what a command prints with --json, behind whatever else is printed while it runs."""
    out = printed(*arguments, "--json")
    return json.loads(out[min(place for place in map(out.find, "{[") if place >= 0) :])


def error_of(*arguments: object) -> FacemintError:
    """Return the error with which a command ends, in one line."""
    done = facemint(*arguments)
    assert isinstance(done.exception, FacemintError), (done.output, done.exception)
    assert "\n" not in str(done.exception)
    return done.exception


def refused(*arguments: object) -> str:
    """Return the one line with which a command ends, the user's mistake."""
    error = error_of(*arguments)
    assert error.exit_status == 2
    return str(error)
