"""What the benchmarks share: hosts with shaped links, processes that obey, tables with ratios."""
