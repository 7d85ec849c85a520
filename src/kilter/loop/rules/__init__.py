"""What `decide` does about each kind of event: pure functions from a state to a state and actions."""
