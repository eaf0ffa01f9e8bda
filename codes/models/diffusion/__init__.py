"""Gaussian diffusion: schedule, process, denoisers, samplers, guidance and networks."""
