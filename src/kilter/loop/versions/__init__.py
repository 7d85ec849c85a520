"""What is done with one version, without a loop: deployed, made faster, scored with, measured, exported."""
