"""What groups, services and a placed orchestrator share, since each is a row, a job and its logs."""
