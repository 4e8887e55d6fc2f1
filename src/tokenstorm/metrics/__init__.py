"""What requests add up to: histograms, tallies, summaries and the verdict on them."""
