"""Every HTML page: comparison, sweep, preview of data."""
