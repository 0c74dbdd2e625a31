"""Contact sheet: one picture of some identities, one row each, so that a person can look at a dataset."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.domain.records import UInt8

PAPER = (250, 250, 248)
INK = (32, 34, 38)
FAINT = (112, 116, 122)
RULE = (222, 222, 218)
MARGIN_px = 24
GAP_px = 4
CAPTION_px = 13
TITLE_px = 20
ROW_GAP_px = 14
CAPTION_BAND_px = CAPTION_px + 7
TITLE_BAND_px = TITLE_px + 22
SIDE_LIMIT_px = 30_000
"""Longest side of a sheet: beyond it, viewers refuse the picture."""


def contact_sheet(
    rows: Sequence[tuple[str, Sequence[UInt8]]],
    *,
    tile_px: int = 112,
    columns: int | None = None,
    title: str = "Identities, one per row",
) -> bytes:
    """Return a PNG with one row of tiles per identity below its caption.

    Args:
        rows: caption (label and cell) and images, uint8 RGB of any size, shape (H, W, 3).
        tile_px: side of a tile; images are scaled to fit it.
        columns: tiles per row; further images are counted in the caption. All images by default.
        title: the first line.

    Raises:
        ValueError: nothing to show, or a sheet that would be too large to open.
    """
    if not rows or tile_px < 16 or (columns is not None and columns < 1):
        raise ValueError(
            f"{len(rows)} rows, tiles of {tile_px} px, {columns} columns; give rows, 16 px or more, 1 or more"
        )
    across = columns or max(1, *(len(images) for _, images in rows), 1)
    step = CAPTION_BAND_px + tile_px + ROW_GAP_px
    width = max(2 * MARGIN_px + across * (tile_px + GAP_px) - GAP_px, 2 * MARGIN_px + 260)
    height = 2 * MARGIN_px + TITLE_BAND_px + len(rows) * step - ROW_GAP_px
    if max(width, height) > SIDE_LIMIT_px:
        raise ValueError(f"a sheet of {width} x {height} px; at most {SIDE_LIMIT_px} a side: show fewer identities")
    return _drawn(rows, across, tile_px, title, (width, height))


def _drawn(
    rows: Sequence[tuple[str, Sequence[UInt8]]], across: int, tile_px: int, title: str, size: tuple[int, int]
) -> bytes:
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    room = size[0] - 2 * MARGIN_px
    heading, small = ImageFont.load_default(TITLE_px), ImageFont.load_default(CAPTION_px)
    draw.text((MARGIN_px, MARGIN_px - 4), _fitting(title, heading, room), fill=INK, font=heading)
    line_y = MARGIN_px + TITLE_px + 6
    draw.line((MARGIN_px, line_y, size[0] - MARGIN_px, line_y), fill=RULE)
    y = MARGIN_px + TITLE_BAND_px
    for caption, images in rows:
        hidden = f"  +{len(images) - across} more" if len(images) > across else ""
        fitted = _fitting(caption, small, room - small.getlength(hidden))
        draw.text((MARGIN_px, y), fitted, fill=INK, font=small)
        draw.text((MARGIN_px + small.getlength(fitted), y), hidden, fill=FAINT, font=small)
        for place, image in enumerate(images[:across]):
            tile = Image.fromarray(np.ascontiguousarray(image))
            if tile.size != (tile_px, tile_px):
                tile = tile.resize((tile_px, tile_px), Image.Resampling.LANCZOS)
            sheet.paste(tile, (MARGIN_px + place * (tile_px + GAP_px), y + CAPTION_BAND_px))
        y += CAPTION_BAND_px + tile_px + ROW_GAP_px
    out = io.BytesIO()
    sheet.save(out, "PNG", optimize=False, compress_level=6)
    return out.getvalue()


def _fitting(text: str, font: Any, room_px: float) -> str:
    """Return `text` on one line, cut with dots where it is longer than the room."""
    line = " ".join(text.split())
    if font.getlength(line) <= room_px:
        return line
    while line and font.getlength(line + "...") > room_px:
        line = line[:-1]
    return line.rstrip() + "..."
