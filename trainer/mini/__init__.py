"""The mini: a tiny SVD-shaped base trained from scratch on a CPU (`python -m trainer.mini`)."""
