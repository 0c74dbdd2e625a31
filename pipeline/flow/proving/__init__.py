"""An image's lineage: from its bytes to the recipe, link by link, each held against what others say of it."""
