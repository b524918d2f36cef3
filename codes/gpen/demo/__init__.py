"""The page that restores photographs: dropped on it, kept in memory alone, forgotten soon."""
