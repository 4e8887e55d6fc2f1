"""The lab: a real Slurm of some nodes and a real sshd, as plain processes of one machine, below one folder."""
