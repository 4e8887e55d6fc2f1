"""The ways to a machine behind SSH and to the nodes behind it: two logins, files, commands, and connections."""
