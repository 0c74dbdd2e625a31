"""One dataset of several: whom they share, what is carried over, and where each image came from."""
