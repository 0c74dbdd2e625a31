"""The phantom world: rendered heads with exactly known properties, and models trained on them."""
