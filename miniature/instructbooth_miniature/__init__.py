"""The miniature world: a small, real Stable-Diffusion-format model of a captioned synthetic world, and what judges it."""
