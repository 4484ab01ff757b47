"""The miniature world: a small, real Stable-Diffusion-format model of a synthetic world, and what judges it."""
