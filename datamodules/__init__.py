"""Data sets: images, label maps and captions, one file per data set."""
