"""The contact sheet: a row per prompt, a column per model and picture, seeds equal along a row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw, ImageFont

from instructbooth_trainer.report.evaluation import Evaluation, Picture

MIN_SIDE, MAX_SIDE = 96, 192  # pixels of a picture on the sheet
MAX_ROWS, MAX_PER_MODEL = 40, 4
GAP, GROUP_GAP, MARGIN = 4, 22, 24
LABEL_WIDTH, HEADER = 230, 64
TEXT_WIDTH = LABEL_WIDTH - 18  # of a label: what is left of it is the gap to the pictures
INK, FAINT, PAPER = (28, 30, 34), (118, 122, 130), (255, 255, 255)

TITLES = {"base": "base model", "personalized": "personalized", "reinforced": "reinforced"}


def contact_sheet(evaluation: Evaluation, load: Callable[[Picture], Image.Image]) -> Image.Image:
    """Draw the sheet: at most 40 prompts and 4 pictures of each model for a prompt.

    Args:
        evaluation: what was drawn.
        load: a picture's pixels.
    """
    models = list(evaluation.summary)
    columns = min(MAX_PER_MODEL, 1 + max(p.number for p in evaluation.pictures))
    rows = min(MAX_ROWS, len(evaluation.prompts))
    side = sheet_side(evaluation.drawing.resolution)
    group = columns * (side + GAP) - GAP
    width = 2 * MARGIN + LABEL_WIDTH + len(models) * (group + GROUP_GAP) - GROUP_GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + HEADER + rows * (side + GAP) - GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    bold, plain, small = (ImageFont.load_default(size) for size in (19, 15, 13))

    def left(model: str) -> int:
        return MARGIN + LABEL_WIDTH + models.index(model) * (group + GROUP_GAP)

    title = wrap(evaluation.subject, TEXT_WIDTH, bold.getlength, most=2)
    for number, line in enumerate(title):
        pen.text((MARGIN, MARGIN + 22 * number), line, INK, bold)
    pen.text((MARGIN, MARGIN + 4 + 22 * len(title)), "held-out prompts", FAINT, small)
    for model in models:
        pen.text((left(model), MARGIN), TITLES.get(model, model), INK, bold)
        score = evaluation.summary[model][evaluation.headline]
        pen.text((left(model), MARGIN + 26), f"{evaluation.headline} {score}", FAINT, small)
    for row, prompt in enumerate(evaluation.prompts[:rows]):
        lines = wrap(prompt.judged, TEXT_WIDTH, plain.getlength)
        top = MARGIN + HEADER + row * (side + GAP)
        offset = top + (side - 19 * len(lines)) // 2
        for number, line in enumerate(lines):
            pen.text((MARGIN, offset + 19 * number), line, INK, plain)
    for picture in evaluation.pictures:
        if picture.prompt_index < rows and picture.number < columns:
            top = MARGIN + HEADER + picture.prompt_index * (side + GAP)
            sheet.paste(scaled(load(picture), side), (left(picture.model) + picture.number * (side + GAP), top))
    return sheet


def sheet_side(resolution: int) -> int:
    """Side of a picture on the sheet: a whole multiple of a small picture's, at least 96; at most 192."""
    if resolution >= MIN_SIDE:
        return min(resolution, MAX_SIDE)
    return -(-MIN_SIDE // resolution) * resolution


def scaled(image: Image.Image, side: int) -> Image.Image:
    """A picture at another size: small ones keep their pixels' edges, large ones are filtered."""
    if image.size == (side, side):
        return image
    enlarging = side > image.width
    return image.resize((side, side), Image.Resampling.NEAREST if enlarging else Image.Resampling.LANCZOS)


def wrap(text: str, width: float, measure: Callable[[str], float], most: int = 5) -> Sequence[str]:
    """Lines of whole words, none wider than `width` (unless a single word is).

    At most `most` of them; the last one ends in " ..." where more was cut.
    """
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]
