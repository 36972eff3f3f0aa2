"""What a run leaves behind: records, text and figures."""
