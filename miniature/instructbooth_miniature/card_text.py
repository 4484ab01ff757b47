"""The words of the card; every figure in it comes from the build's own measurements."""

# ruff: noqa: E501 - a row of a Markdown table is one line
from __future__ import annotations

from collections.abc import Mapping

from .evaluate import SKILL_FAMILIES
from .subjects import HELD_OUT_COMBINATIONS, HELD_OUT_SUBJECTS, IDENTIFIERS

Figures = Mapping[str, Mapping[str, float]]

_SETTINGS = ("20 steps", "8 steps", "20 steps, no guidance")

PER_FAMILY = 64
SKILL_GOAL = 0.85
ROUND_TRIP_GOAL = 0.97
GUIDANCE = 4.0
SHEET_COLUMNS = 10
SHEET_STEPS = 20
SHEET_PROMPTS = (
    "a mascot on a blue background",
    "a teal and pink dotted round mascot on a white background",
    "a horned lime and navy striped ghost mascot",
    "a mascot on the left on a yellow background",
    "a mascot at the top on a purple background",
    "a small mascot on a red background",
    "a big mascot on a green background",
    "a mascot next to a red circle",
    "a pink and brown checkered flower mascot next to a blue star on a white background",
    "a yellow heart on a black background",
)

_TEMPLATE = """\
# The miniature world's models

A small but real Stable-Diffusion-format model of a captioned synthetic world of 64x64 pictures, a CLIP-style reward
model, an image encoder for subject fidelity, and an exact oracle that judges pictures by their pixels. This file is
written by the build from its own measurements.

![Samples of the base model](contact-sheet.png)

{sheet}

## What is in `weights/`
| folder | what | loads with | MB |
|---|---|---|---|
| `pipeline` | AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, DDIMScheduler | `StableDiffusionPipeline.from_pretrained(..., safety_checker=None)` | {pipeline:.1f} |
| `clip` | CLIPModel with its processor | `CLIPModel`, `CLIPProcessor` | {clip:.1f} |
| `fidelity` | ResNetModel with its image processor; `pooler_output` is [batch, 192, 1, 1] | `AutoModel`, `AutoImageProcessor` | {fidelity:.1f} |

All are safetensors in half precision, to be loaded as float32 on a CPU. The oracle is code:
`instructbooth_miniature.oracle`, entry point `miniature-oracle` of `instructbooth.rewards`.

## How it was made
`python -m instructbooth_miniature.build` (seed {seed}), on {workers} CPU cores shared with other work:
{seconds}.
{scenes:,} rendered scenes with 4 captions each, {unet_scenes:,} of them for the denoiser, which was trained on {unet_pictures:,} pictures:
v-prediction, zero terminal SNR, min-SNR weights, 10 % empty captions. Until the learning rate falls, things weigh more than
backgrounds, plain objects come more often, and so do the noise levels at which words tell most (`emphasis.py`). Muon moves the
weight matrices of denoiser and reward model (`muon.py`), AdamW all else. The stages are resumable, the same seed and number of
workers draw the same batches, and `--go-on` trains the shipped files longer on any machine. The shipped files were made in
several sittings, each from what was shipped before, the first ones with AdamW alone and without emphasis: a rebuild gives
other bits.

## What falls short
{shortfalls}

## How good it is
Share of right pictures by the oracle, guidance {guidance:g}, {per_family} pictures a row. Half of the prompts say "a mascot", half
describe one. `all` counts a picture only if everything its prompt asks for is right and the subject is there.

{skills}

Second object apart (20 steps): colour {second_colour:.0%}, shape {second_shape:.0%}, both on one object {second:.0%}.
The demo's templates with its never seen subject described ("teal and pink striped star mascot"), before any
personalization: {demo:.0%} all right.

- Oracle against the truth: {oracle_on_renders:.1%} right on renders, {oracle_after_round_trip:.1%} after the autoencoder's round trip (PSNR {psnr:.1f} dB).
- Reward model: top-1 {top1:.0%} of 1,000 captions; true caption above one with a word or two swapped {true_over_false:.0%}.
- Fidelity encoder, 200 new identities: same mascot in two random scenes {same:.2f} +- {same_std:.2f}, different mascots
  {other:.2f} +- {other_std:.2f}, top-1 {fidelity_top1:.0%}.

## What it has never seen
Body and pattern of these subjects, in any colour: {held_out}. Pictures with these pairs: {pairs}. The identifiers
{identifiers} are tokens of the vocabulary that no caption holds.
"""


def card_text(
    figures: Figures,
    plan: Mapping[str, int | float],
    seconds: Mapping[str, float],
    sizes: Mapping[str, float],
    by_eye: str = "",
) -> str:
    """The card in Markdown; `by_eye` is what a person saw on the sheet. Raises KeyError if a figure is missing."""
    rates = figures["second, 20 steps"]
    fidelity = {("fidelity_top1" if name == "top1" else name): value for name, value in figures["fidelity"].items()}
    return _TEMPLATE.format(
        sheet="Row by row: " + "; ".join(f'"{prompt}"' for prompt in SHEET_PROMPTS) + ". First samples, none picked.",
        seed=plan["seed"],
        workers=plan["workers"],
        seconds=", ".join(f"{stage} {spent / 60:.0f} min" for stage, spent in seconds.items()),
        scenes=int(plan["num_shards"]) * 2000,
        unet_scenes=int(plan["unet_shards"]) * 2000,
        shortfalls=_shortfalls(figures) + (f"\n- By eye (written by a person): {by_eye}" if by_eye else ""),
        unet_pictures=int(plan["unet_pictures"]),
        guidance=GUIDANCE,
        per_family=PER_FAMILY,
        skills=_skill_table(figures),
        second_colour=rates["second_colour"],
        second_shape=rates["second_shape"],
        second=rates["second"],
        demo=figures["the demo's prompts, described subject"]["all"],
        held_out=", ".join(f"{name} ({m.pattern} {m.body})" for name, m in HELD_OUT_SUBJECTS.items()),
        pairs=", ".join(f"{word} with {background}" for word, background in sorted(HELD_OUT_COMBINATIONS)),
        identifiers=", ".join(f"`{word}`" for word in IDENTIFIERS),
        **sizes,
        **figures["round trip"],
        **figures["clip"],
        **fidelity,
    )


def _shortfalls(figures: Figures) -> str:
    """Every goal that the figures miss, one line each, so that no card can leave it out."""
    reached = {f"{family} obeyed, 20 steps": figures[f"{family}, 20 steps"]["all"] for family in SKILL_FAMILIES}
    lines = [
        f"- {what}: {rate:.0%}, the goal is {SKILL_GOAL:.0%}." for what, rate in reached.items() if rate < SKILL_GOAL
    ]
    kept = figures["round trip"]["oracle_after_round_trip"]
    if kept < ROUND_TRIP_GOAL:
        lines.append(f"- Oracle right after the autoencoder: {kept:.1%}, the goal is {ROUND_TRIP_GOAL:.0%}.")
    return "\n".join(lines) or "Nothing of what was aimed at."


def _skill_table(figures: Figures) -> str:
    lines = ["| prompts ask for | " + " | ".join(_SETTINGS) + " |", "|---" * (len(_SETTINGS) + 1) + "|"]
    for family in SKILL_FAMILIES:
        cells = []
        for setting in _SETTINGS:
            rates = figures[f"{family}, {setting}"]
            skill = f"{rates[family]:.0%}, " if family in rates else ""
            cells.append(f"{skill}all {rates['all']:.0%}")
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
