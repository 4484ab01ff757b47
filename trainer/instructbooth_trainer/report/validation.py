"""Pictures drawn while a model learns: a sheet of each validation, and one over all of them."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from instructbooth_trainer.report.sheet import (
    FAINT,
    GAP,
    INK,
    LABEL_WIDTH,
    MARGIN,
    PAPER,
    TEXT_WIDTH,
    scaled,
    sheet_side,
    wrap,
)

MAX_COLUMNS = 12
_HEADER = 34


def picture_sheet(
    title: str, columns: Sequence[str], prompts: Sequence[str], rows: Sequence[Sequence[Image.Image]]
) -> Image.Image:
    """A row per prompt with its pictures.

    Args:
        title: above the prompts.
        columns: what stands above each column; may be empty.
        prompts: one per row.
        rows: the pictures of each prompt, all of one size, as many in each row.
    """
    side = sheet_side(rows[0][0].width)
    width = 2 * MARGIN + LABEL_WIDTH + len(rows[0]) * (side + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + _HEADER + len(rows) * (side + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.load_default(19), ImageFont.load_default(15)
    pen.text((MARGIN, MARGIN), title, INK, bold)
    for number, column in enumerate(columns):
        pen.text((MARGIN + LABEL_WIDTH + number * (side + GAP), MARGIN), column, FAINT, plain)
    for row, (prompt, pictures) in enumerate(zip(prompts, rows, strict=True)):
        top = MARGIN + _HEADER + row * (side + GAP)
        lines = wrap(prompt, TEXT_WIDTH, plain.getlength)
        for number, line in enumerate(lines):
            pen.text((MARGIN, top + (side - 19 * len(lines)) // 2 + 19 * number), line, INK, plain)
        for number, picture in enumerate(pictures):
            sheet.paste(scaled(picture, side), (MARGIN + LABEL_WIDTH + number * (side + GAP), top))
    return sheet


def spread(steps: Sequence[int]) -> list[int]:
    """At most twelve of the steps, evenly spread, the first and the last among them."""
    if len(steps) <= MAX_COLUMNS:
        return list(steps)
    return [steps[round(n * (len(steps) - 1) / (MAX_COLUMNS - 1))] for n in range(MAX_COLUMNS)]
