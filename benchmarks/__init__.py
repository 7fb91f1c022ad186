"""Measurements. Every figure is a ratio taken side by side in one run; LOG.md keeps them all."""
