"""Anchors: reference rows that a metric of a run is compared with."""

# What a figure is held against, as keys and in words.
ANCHORS = {
    "real": "real images",
    "vae": "VAE round trip",
    "text": "caption alone",
    "shuffled": "another image's layout",
}
