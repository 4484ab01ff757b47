"""The model family: loading, adapters, prompts and the stochastic sampler step with its log-probability."""
