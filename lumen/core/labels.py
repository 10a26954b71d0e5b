"""Label maps: the value of pixels without a class."""

IGNORE = 255  # label of pixels that belong to no class
