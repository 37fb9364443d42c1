"""What several tests need: clusters of real processes, models, ways to wait."""
