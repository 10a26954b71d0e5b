"""Frozen Stable Diffusion, shared by generators and the SD backbone."""
