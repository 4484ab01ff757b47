"""The DreamBench protocol over a fleet of jobs: the data set as it is, a manifest per subject, the collected table."""
