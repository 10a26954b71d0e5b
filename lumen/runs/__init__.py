"""One run: build, train, evaluate, sample, certify."""
