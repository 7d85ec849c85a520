"""What was answered, on disk before the answer is sent; what of it is kept, for how long, and where it goes then."""
