"""The contact sheet: a picture that opens, shows the images asked for, and keeps to its page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.adapters.contact_sheet import PAPER, CAPTION_BAND_px, GAP_px, MARGIN_px, TITLE_BAND_px, contact_sheet
from pipeline.domain.records import UInt8


def _tile(value: int, size: tuple[int, int] = (112, 112)) -> UInt8:
    return np.full((*size, 3), value, np.uint8)


def _pixels(png: bytes) -> UInt8:
    return np.asarray(Image.open(io.BytesIO(png)))


def test_tiles_stand_unchanged_where_they_belong() -> None:
    """An image of tile size is pasted as it is, at its row and column."""
    face = np.random.default_rng(0).integers(0, 256, (112, 112, 3)).astype(np.uint8)
    sheet = _pixels(contact_sheet([("0 all", [_tile(9), _tile(99)]), ("1 all", [_tile(19), face])]))
    left = MARGIN_px + 112 + GAP_px
    top = MARGIN_px + TITLE_BAND_px + CAPTION_BAND_px
    step = (sheet.shape[0] - 2 * MARGIN_px - TITLE_BAND_px + 14) // 2
    assert (sheet[top : top + 112, left : left + 112] == 99).all()
    assert (sheet[top + step : top + step + 112, left : left + 112] == face).all()


def test_margins_are_paper() -> None:
    """Nothing touches the edge of the page, however long title and captions are."""
    sheet = _pixels(contact_sheet([("7 " + "long/" * 90, [_tile(0)] * 3)], title="T" * 400))
    for edge in (sheet[:8], sheet[-8:], sheet[:, :8], sheet[:, -8:]):
        assert (edge == PAPER).all()


def test_captions_are_drawn_dark_on_light() -> None:
    """The caption band of a row holds ink where there is text and none where there is not."""
    top = MARGIN_px + TITLE_BAND_px
    written, empty = (
        _pixels(contact_sheet([(text, [_tile(255)] * 3)]))[top : top + CAPTION_BAND_px]
        for text in ("12 light/older", "")
    )
    assert written.min() < 60
    assert empty.min() == min(PAPER)


def test_columns_cut_and_say_how_many_more() -> None:
    """Images beyond the columns are left out, and the caption then differs from one that hides nothing."""
    cut = _pixels(contact_sheet([("0", [_tile(5)] * 9)], columns=4))
    whole = _pixels(contact_sheet([("0", [_tile(5)] * 4)], columns=4))
    assert cut.shape == whole.shape
    assert not np.array_equal(cut, whole)
    assert np.array_equal(
        cut[MARGIN_px + TITLE_BAND_px + CAPTION_BAND_px :], whole[MARGIN_px + TITLE_BAND_px + CAPTION_BAND_px :]
    )


def test_images_of_any_size_are_scaled() -> None:
    """Larger and smaller images fill a tile; a row without images is an empty row."""
    sheet = _pixels(contact_sheet([("a", [_tile(50, (30, 30)), _tile(50, (300, 200))]), ("b", [])], tile_px=64))
    top = MARGIN_px + TITLE_BAND_px + CAPTION_BAND_px
    assert (sheet[top : top + 64, MARGIN_px : MARGIN_px + 64] == 50).all()
    assert (sheet[top : top + 64, MARGIN_px + 64 + GAP_px : MARGIN_px + 128 + GAP_px] == 50).all()


def test_bytes_repeat() -> None:
    """Equal rows give an equal file."""
    rows = [("0 all", [_tile(1), _tile(2)])]
    assert contact_sheet(rows) == contact_sheet(rows)


@pytest.mark.parametrize("wrong", [{"tile_px": 4}, {"columns": 0}])
def test_impossible_sheets_are_refused(wrong: dict[str, Any]) -> None:
    """Tiles that show nothing and no columns are refused."""
    with pytest.raises(ValueError, match="16 px or more"):
        contact_sheet([("0", [_tile(1)])], **wrong)


def test_nothing_to_show_and_too_much_are_refused() -> None:
    """An empty sheet and one that no viewer opens are refused before they are drawn."""
    with pytest.raises(ValueError, match="give rows"):
        contact_sheet([])
    with pytest.raises(ValueError, match="show fewer identities"):
        contact_sheet([("x", [])] * 300)
