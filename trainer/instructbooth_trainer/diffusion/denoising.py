"""What the families with a U-Net share: noise or velocity is predicted, and the sampler is DDIM."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers import DDIMScheduler

from instructbooth.spec.personalization import FlowMatching
from instructbooth_trainer.diffusion.ddim import PREDICTION_TYPES, DdimSchedule
from instructbooth_trainer.diffusion.model import DiffusionModel
from instructbooth_trainer.diffusion.objective import DenoisingObjective
from instructbooth_trainer.runtime.errors import UserError

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_REST = ["proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut", "time_emb_proj"]


class DenoisingModel(DiffusionModel):
    """A U-Net that predicts `epsilon` or `v_prediction`."""

    denoiser_name = "unet"
    targets: ClassVar = {"attention": _ATTENTION, "all": _ATTENTION + _REST}

    @classmethod
    def prepare(cls, pipeline: Any) -> None:
        """Give the pipeline a DDIM scheduler. Raises UserError ModelInvalid for another kind of prediction."""
        # A scheduler that was not DDIM has no clip_sample in its config, and DDIM's default would clip latents.
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, thresholding=False)
        kind = str(pipeline.scheduler.config.prediction_type)
        if kind not in PREDICTION_TYPES:
            raise UserError(
                "ModelInvalid",
                f"spec.model.source: the scheduler's prediction_type is {kind!r}; only "
                f"{' and '.join(PREDICTION_TYPES)} have a formula here",
            )

    def bucket_step(self) -> int:
        """Halved on every level of the U-Net but the last without a rest."""
        step, levels = super().bucket_step(), len(self.denoiser.config.block_out_channels)
        whole = int(self.pipeline.vae_scale_factor) * int(2 ** (levels - 1))
        return whole * -(-step // whole)

    def schedule(self, num_steps: int, eta: float) -> DdimSchedule:
        """The DDIM steps of a sampling run."""
        return DdimSchedule.from_scheduler(self.pipeline.scheduler, num_steps, eta, self.device)

    def objective(self, min_snr_gamma: float | None, flow_matching: FlowMatching | None = None) -> DenoisingObjective:
        """Noise or velocity at uniform timesteps. Raises UserError FlowMatchingUndefined."""
        if flow_matching is not None:
            raise UserError(
                "FlowMatchingUndefined",
                f"spec.personalization.flowMatching: {self.family} is not trained by flow matching; remove it, or see "
                "minSnrGamma",
            )
        scheduler = self.pipeline.scheduler
        alpha_bar: torch.Tensor = scheduler.alphas_cumprod
        return DenoisingObjective(
            alpha_bar.float().to(self.device), str(scheduler.config.prediction_type), min_snr_gamma
        )

    def pipeline_options(self, guidance: float, count: int) -> dict[str, Any]:
        """Without noise in the steps."""
        return {"guidance_scale": guidance, "eta": 0.0}
