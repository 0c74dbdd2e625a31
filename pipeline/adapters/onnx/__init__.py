"""Models that users bring as ONNX files, behind the ports: detectors and embedders of faces, a file for each kind."""
