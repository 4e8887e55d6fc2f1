"""Client groups: create, watch, stop, results. A group is one job of N clients against one service."""
