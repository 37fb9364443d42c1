"""Runs the recipe for as many workers as there is room for, with room for two."""

import runpy
import sys

import ray

ray.init(num_cpus=2, include_dashboard=False)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
ray.shutdown()
