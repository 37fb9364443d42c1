"""What follows from the scheme of a variable: a file for each, and what all have in common."""
