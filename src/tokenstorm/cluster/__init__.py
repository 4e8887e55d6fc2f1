"""Where jobs run: `Shell` runs commands and moves files there, `Scheduler` runs jobs. Local, or Slurm over SSH."""
