"""What `lumen` can be told to do; one file per kind of verb."""
