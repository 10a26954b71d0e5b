"""Dense features of pretrained networks: weights, extraction, moments, PCA."""
