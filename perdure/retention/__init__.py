"""What is deleted when it is old, and the files that it is written to before."""
