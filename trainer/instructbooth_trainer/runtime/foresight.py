"""Before the first stage trains: is there what the later ones will load? Names are looked at, nothing is downloaded.

Otherwise a model of the evaluation that is not there, or that is published as a pickle only, ends the job after hours
of training. What cannot be told from here is left to its stage: volumes and ConfigMaps that are not mounted yet, and
repositories that the hub does not show without their token.
"""

from __future__ import annotations

from instructbooth.contract import STAGES, PromptRole, Stage
from instructbooth.reconcile.mounts import model_sources, prompt_sources
from instructbooth.spec.job import InstructBoothJobSpec
from instructbooth_trainer.runtime.errors import UserError
from instructbooth_trainer.runtime.sources import Sources


def foresee(spec: InstructBoothJobSpec, sources: Sources) -> None:
    """Look for the models of all stages and the prompts of reinforcement and evaluation.

    Raises:
        UserError: what `Sources` would raise in that stage, with the path of the field.
    """
    seen = [spec.personalization.adapter]  # which this stage is about to read, and whose files are called otherwise
    for stage in STAGES:
        for field, source in model_sources(spec, stage).items():
            if source in seen:
                continue
            seen.append(source)
            try:
                sources.look_for_model(source)
            except UserError as error:
                raise UserError(error.reason, f"spec.{field}, which {stage.value} loads: {error.message}") from error
        for role, prompts in prompt_sources(spec, stage).items() if stage is not Stage.PERSONALIZE else ():
            if prompts.config_map is None:
                weights = spec.reinforcement.prompt_weights if role is PromptRole.REINFORCEMENT else {}
                sources.weighted_prompts(prompts, role, weights)
