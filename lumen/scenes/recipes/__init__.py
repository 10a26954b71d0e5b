"""How the small networks of the offline world are trained: `python -m lumen.scenes.recipes vae|unet`."""
