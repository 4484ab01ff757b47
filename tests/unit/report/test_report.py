"""Numbers, curves, sheet and page from a made-up evaluation."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from instructbooth_trainer.report.curves import line_chart
from instructbooth_trainer.report.evaluation import (
    Drawing,
    Evaluation,
    Mean,
    Picture,
    Prompt,
    mean_of,
    summarize,
    summarize_prompts,
)
from instructbooth_trainer.report.page import TrainingRecord, render_page
from instructbooth_trainer.report.sheet import GAP, HEADER, LABEL_WIDTH, MARGIN, contact_sheet, sheet_side, wrap

COLORS = {"base": (200, 0, 0), "personalized": (0, 200, 0), "reinforced": (0, 0, 200)}


def picture(model: str, prompt: int, number: int, score: float) -> Picture:
    return Picture(
        model=model,
        prompt_index=prompt,
        number=number,
        file=f"pictures/{model}/{prompt:03d}-{number}.png",
        prompt="a sks dog",
        batch_seeds=[7, 8],
        batch_index=number,
        scores={"clip-score": score},
    )


@pytest.fixture
def evaluation() -> Evaluation:
    pictures = [
        picture(model, prompt, number, base + 0.1 * prompt + 0.01 * number)
        for model, base in zip(COLORS, (0.1, 0.2, 0.3), strict=True)
        for prompt in range(2)
        for number in range(2)
    ]
    return Evaluation(
        job="team/rex",
        uid="u-1",
        subject="corgi <dog>",
        identifier="sks",
        headline="clip-score",
        metrics=["clip-score"],
        drawing=Drawing(
            steps=8, guidance_scale=1, resolution=32, dtype="fp32", threads=1, device="cpu", versions={"torch": "2"}
        ),
        prompts=[Prompt(template=f"a {{subject}} {i}", judged=f"a corgi <dog> {i}") for i in range(2)],
        pictures=pictures,
        summary=summarize(pictures, ["clip-score"]),
        per_prompt=summarize_prompts(pictures, ["clip-score"], 2),
    )


def test_mean_and_standard_error_by_hand() -> None:
    # 1, 2, 3, 6: mean 3, squares of the differences 4 + 1 + 0 + 9 = 14, s = sqrt(14/3), s / 2
    assert mean_of([1, 2, 3, 6]) == Mean(mean=3, standard_error=math.sqrt(14 / 3 / 4), n=4)
    assert mean_of([0.5]) == Mean(mean=0.5, standard_error=None, n=1)
    with pytest.raises(ValueError, match="no pictures"):
        mean_of([])


def test_summaries_by_model_and_by_prompt(evaluation: Evaluation) -> None:
    assert evaluation.summary["base"]["clip-score"].mean == pytest.approx((0.1 + 0.11 + 0.2 + 0.21) / 4)
    per_prompt = [m.mean for m in evaluation.per_prompt["reinforced"]["clip-score"]]
    assert per_prompt == pytest.approx([0.305, 0.405])
    assert evaluation.outcome_metrics() == {
        f"{m}/clip-score": evaluation.summary[m]["clip-score"].mean for m in ("base", "personalized", "reinforced")
    }


def test_fidelity_is_the_subject_s_identity(evaluation: Evaluation) -> None:
    pictures = [picture("base", 0, 0, 0.1).model_copy(update={"scores": {"subject-identity": 0.7}})]
    judged = evaluation.model_copy(update={"summary": summarize(pictures, ["subject-identity"])})
    assert judged.outcome_metrics() == {"base/subject-identity": 0.7, "base/fidelity": 0.7}


def test_the_file_comes_back(evaluation: Evaluation) -> None:
    text = evaluation.model_dump_json(by_alias=True)
    assert '"batchSeeds":[7,8]' in text
    again = Evaluation.model_validate_json(text)
    assert again == evaluation
    assert again.pictures[1].seed == 8


def test_the_sheet_has_each_picture_in_its_place(evaluation: Evaluation) -> None:
    def load(p: Picture) -> Image.Image:
        r, g, b = COLORS[p.model]
        return Image.new("RGB", (32, 32), (r, g, b + p.prompt_index * 20 + p.number))

    sheet = contact_sheet(evaluation, load)
    x, y = MARGIN + LABEL_WIDTH + 48, MARGIN + HEADER + 48
    assert sheet.getpixel((x, y)) == (200, 0, 0)
    assert sheet.getpixel((x + 96 + GAP, y)) == (200, 0, 1)
    assert sheet.getpixel((x + 96 + GAP, y + 96 + GAP)) == (200, 0, 21)
    assert sheet.getpixel((sheet.width - MARGIN - 48, sheet.height - MARGIN - 48)) == (0, 0, 221)
    assert sheet.getpixel((2, 2)) == (255, 255, 255)


def test_a_long_subject_stays_out_of_the_first_model_s_column(evaluation: Evaluation) -> None:
    long = evaluation.model_copy(update={"subject": "teal and pink striped star mascot with antennae"})
    sheet = contact_sheet(long, lambda _: Image.new("RGB", (32, 32)))
    seam = sheet.crop((MARGIN + LABEL_WIDTH - 12, 0, MARGIN + LABEL_WIDTH - 2, MARGIN + HEADER))
    assert seam.getcolors() == [(seam.width * seam.height, (255, 255, 255))]


@pytest.mark.parametrize(("resolution", "side"), [(32, 96), (64, 128), (48, 96), (96, 96), (128, 128), (512, 192)])
def test_small_pictures_grow_by_whole_multiples(resolution: int, side: int) -> None:
    assert sheet_side(resolution) == side


def test_long_prompts_are_wrapped_and_cut() -> None:
    assert list(wrap("aa bb cc", 5, len)) == ["aa bb", "cc"]
    assert list(wrap("a b c d e f g", 1, len)) == ["a", "b", "c", "d", "e ..."]
    assert list(wrap("a b c", 1, len, most=2)) == ["a", "b ..."]


def test_a_curve_goes_from_corner_to_corner() -> None:
    svg = line_chart("reward & more", [0.0, 1.0], "epochs")
    assert 'points="52.0,162.0 408.0,30.0"' in svg
    assert "reward &amp; more" in svg
    assert "band" in line_chart("r", [0.0, 1.0], "epochs", [0.1, 0.1])
    assert "nan" not in line_chart("flat", [0.5], "epochs")


def test_the_page_shows_the_numbers_and_escapes_names(evaluation: Evaluation) -> None:
    sheet = Image.new("RGB", (8, 8))
    epochs = [{"reward_mean": 0.1 * i, "reward_std": 0.05, "kl": 0.01 * i, "other": 1.0} for i in range(5)]
    page = render_page(evaluation, sheet, TrainingRecord(epochs, "no gain in 4 validations"))
    assert "corgi &lt;dog&gt;" in page
    assert "<dog>" not in page
    assert f"{evaluation.summary['reinforced']['clip-score'].mean:.3f}" in page
    assert page.count("<svg") == 2
    both = [{**epoch, "reward/clip-score": 0.3, "reward/a<b": 0.2} for epoch in epochs]
    parts = render_page(evaluation, sheet, TrainingRecord(both))
    assert parts.count("<svg") == 4
    assert "mean a&lt;b" in parts
    assert "Stopped early: no gain in 4 validations." in page
    assert page.count('class="best"') == 1 + 2
    assert "http" not in page.replace("http-equiv", "")
