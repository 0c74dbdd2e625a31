"""What a report says of a version: one pass over its candidates, similarity, measures, and which pictures are shown."""
