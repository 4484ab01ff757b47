"""What to do about a job, as a pure function: `plan(job, observed)`. Nothing here talks to a cluster or a clock."""
