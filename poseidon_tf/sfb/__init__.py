"""Sufficient factor broadcasting, worker to worker: pure `factors` and `exchange`, one service."""
