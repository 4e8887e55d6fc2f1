"""Profiles, which say where jobs run, and the file that holds them."""
