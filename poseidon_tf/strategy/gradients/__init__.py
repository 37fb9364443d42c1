"""Sums of gradients: what is agreed on, what each scheme sends, and what comes of it."""
