"""The search for better parameters: a study is a run, and each of its trials is a run below it."""
