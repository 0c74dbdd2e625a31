"""An S3 on loopback for tests, and a proxy before it that misbehaves as told."""
