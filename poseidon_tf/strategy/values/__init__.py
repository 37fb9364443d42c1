"""Values that a program reduces or gathers by itself."""
