"""Template filters of the jobs app."""
