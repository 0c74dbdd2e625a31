"""Weights of published models: fetched once, checked by digest, read without running anything that they hold."""

from __future__ import annotations

from pipeline.adapters.models.converting import convert_file
from pipeline.adapters.models.formula import FormulaWeights
from pipeline.adapters.models.reading import describe
from pipeline.adapters.models.weights import ModelWeights

__all__ = ["FormulaWeights", "ModelWeights", "convert_file", "describe"]
