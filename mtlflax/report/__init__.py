"""Reports on runs: a table with spreads and intervals, and a page with curves and pictures."""
