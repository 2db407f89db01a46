"""One file a noun of the API; found by scanning."""
