"""Handing a run to a ground that works it: a Ray cluster, Kubernetes, Slurm, or this machine."""
