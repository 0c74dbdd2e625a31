"""Stable Diffusion 1.5 as facemint's generators need it: many identities in one batch, noise handed in, no state kept.

Networks and schedulers are those of diffusers; what surrounds them is ours. Source: R. Rombach et al., "High-Resolution
Image Synthesis with Latent Diffusion Models", CVPR 2022.
"""
