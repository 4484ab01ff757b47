"""The model card, README.md beside an adapter: what it is, of what it was made, what was measured, how to use it."""

from __future__ import annotations

from collections.abc import Mapping

from instructbooth.contract import Stage
from instructbooth.spec.job import InstructBoothJobSpec, ResolvedJob
from instructbooth.spec.sources import PLACEHOLDER
from instructbooth_trainer.report.evaluation import Evaluation
from instructbooth_trainer.report.sheet import TITLES

_DONE = {Stage.PERSONALIZE: "personalized (stage 1)", Stage.REINFORCE: "personalized and reinforced (stages 1 and 2)"}


def model_card(job: ResolvedJob, stage: Stage, numbers: Mapping[str, float], *, kohya: bool) -> str:
    """The card as Markdown, with the header that the Hugging Face hub reads.

    Args:
        job: what was asked for.
        stage: the stage that publishes.
        numbers: what it measured; may be empty.
        kohya: whether Kohya's file lies beside it.
    """
    spec = job.spec
    name = f"{spec.subject.identifier} {spec.subject.phrase}"
    prompt = spec.personalization.caption_templates[0].replace(PLACEHOLDER, name)
    lora = spec.personalization.lora
    rows = "".join(f"| {key} | {value:.6g} |\n" for key, value in numbers.items())
    table = f"\n| measured | |\n|---|---|\n{rows}" if rows else ""
    also = " `kohya/lora.safetensors` is the same under Kohya's names, for ComfyUI and others." if kohya else ""
    return f"""---
{_header(spec, prompt)}---
# {name}

A LoRA that teaches the subject "{spec.subject.phrase}" under the identifier `{spec.subject.identifier}`, {_DONE[stage]}
with InstructBooth (arXiv 2312.03011). Made by the job {job.namespace}/{job.name}, uid {job.uid}.

| | |
|---|---|
| base model | {spec.model.source.label()} |
| identifier | `{spec.subject.identifier}` |
| class noun | {spec.subject.class_name} |
| description | {spec.subject.phrase} |
| adapter | {"DoRA" if lora.use_dora else "LoRA"}, rank {lora.rank}, alpha {lora.alpha:g} |
{table}
![samples](samples.png)

```python
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained("the base model")
pipe.load_lora_weights("this folder", weight_name="pytorch_lora_weights.safetensors")
pipe("{prompt}").images[0]
```
{also}
"""


def evaluation_card(evaluation: Evaluation) -> str:
    """README.md beside evaluation.json: the table of results, with what each number was measured by."""
    head = "".join(f" {metric} |" for metric in evaluation.metrics)
    rows = "".join(
        f"| {TITLES.get(model, model)} |" + "".join(f" {row[metric]} |" for metric in evaluation.metrics) + "\n"
        for model, row in evaluation.summary.items()
    )
    scorers = "".join(f"- `{metric}`: {scorer}\n" for metric, scorer in evaluation.scorers.items())
    pictures = len(evaluation.pictures) // max(1, len(evaluation.summary))
    return f"""# {evaluation.subject}: evaluation

{len(evaluation.prompts)} held-out prompts, {pictures} pictures of each model. Means with 95 % bootstrap intervals,
prompts being drawn; prompts are judged without the identifier. Made by the job {evaluation.job}, uid {evaluation.uid}.

| |{head}
|---|{"---|" * len(evaluation.metrics)}
{rows}
Measured by:

{scorers}
![A row per prompt](contact-sheet.png)
"""


def _header(spec: InstructBoothJobSpec, prompt: str) -> str:
    hub = spec.model.source.hub
    base = f"base_model: {hub.repo}\n" if hub else ""
    quoted = prompt.replace("\\", "\\\\").replace('"', '\\"')
    lines = ["library_name: diffusers", "pipeline_tag: text-to-image", "tags: [lora, instructbooth]"]
    return base + "".join(f"{line}\n" for line in [*lines, f'instance_prompt: "{quoted}"'])
