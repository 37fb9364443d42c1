"""The composition root: what reads the environment, starts processes and joins the parts.

Importing this package loads nothing but the standard library.
"""
