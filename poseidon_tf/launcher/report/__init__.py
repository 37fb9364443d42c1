"""A timeline as one page of HTML: what a step looks like, and who was late."""
