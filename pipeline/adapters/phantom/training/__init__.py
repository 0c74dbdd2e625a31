"""Trains the phantom models from nothing on rendered phantoms: `python -m pipeline.adapters.phantom.training`."""
