"""What runs beside the engines on their node: starts them, proves where they listen, and publishes it."""
