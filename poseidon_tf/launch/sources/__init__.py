"""Where a process learns of its cluster: a file per source, and `table` with their order."""
