"""Faces that are there already: folders of aligned crops, files of embeddings, verification sets of pairs."""
