"""What tests of several adapters stand on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def mlc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return mlcroissant, unpacking below the test's own folder."""
    import mlcroissant
    from etils import epath
    from mlcroissant._src.operation_graph.operations import extract

    monkeypatch.setattr(extract, "EXTRACT_PATH", epath.Path(tmp_path / "unpacked"))
    return mlcroissant
