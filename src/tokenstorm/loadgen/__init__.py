"""The load generator: from a plan to result lines and a summary. It knows nothing of Slurm, SSH or web frameworks."""
