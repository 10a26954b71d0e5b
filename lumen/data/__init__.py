"""Machinery that all data sets share: index, readers, transforms, datasets, loader, sampler, cache."""
