"""What is done once for a site: its profile is examined, and this version's code is put there."""
