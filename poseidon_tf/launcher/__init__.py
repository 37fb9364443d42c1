"""A whole job on this machine: commands, processes, what they print, and who has failed."""
