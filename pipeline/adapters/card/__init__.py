"""The dataset card of a version."""

from pipeline.adapters.card.card import dataset_card

__all__ = ["dataset_card"]
