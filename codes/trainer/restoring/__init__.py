"""A restoration run: from folders of files to results, records and the summary."""
