"""Datasets of several workers: shares, one end for all, and what must be alike."""
