"""Detectors of faces and their five landmarks, a file for each; `cropping` cuts aligned crops out of pictures."""
