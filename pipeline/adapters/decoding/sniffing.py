"""What bytes are, by their first few: names and extensions lie.

Sources: the formats' own specifications and the WHATWG MIME sniffing standard (mimesniff.spec.whatwg.org).
"""

from __future__ import annotations

ALLOWED = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
"""Formats that are decoded; every other one is refused by name."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "bigtiff"),
    (b"MM\0+", "bigtiff"),
    (b"%PDF-", "pdf"),
    (b"\0\0\1\0", "ico"),
    (b"8BPS", "psd"),
    (b"\xff\x0a", "jpeg-xl"),
    (b"\0\0\0\x0cJXL ", "jpeg-xl"),
    (b"\0\0\0\x0cjP  ", "jpeg-2000"),
    (b"\xff\x4f\xff\x51", "jpeg-2000"),
    (b"PK\x03\x04", "zip"),
    (b"\x1f\x8b", "gzip"),
    (b"Rar!", "rar"),
    (b"\x7fELF", "program"),
    (b"MZ", "program"),
    (b"\x1aE\xdf\xa3", "matroska"),
)
_BRANDS = {b"avif": "avif", b"avis": "avif", b"heic": "heic", b"heix": "heic", b"mif1": "heic", b"msf1": "heic"}
_TEXT = (b"<svg", b"<!doctype html", b"<html", b"<?xml", b"{", b"<head", b"<body")


def sniff(data: bytes) -> str:
    """Return what `data` is: one of ALLOWED, another known format's name, or `unknown`."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video")
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(_TEXT):
        return "svg" if b"<svg" in head else "html" if b"<html" in head or b"<!doctype html" in head else "text"
    return "unknown"
