"""A table of a user's own: CSV, TSV, JSONL or Parquet, a row a clip."""
