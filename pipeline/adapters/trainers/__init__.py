"""Trains small recognisers on a dataset, so that a set can be told by what is learnt from it. Needs torch."""
