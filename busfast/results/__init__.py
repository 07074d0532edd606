"""What a run writes under results/: its record, log and curves, and the comparison of runs."""
