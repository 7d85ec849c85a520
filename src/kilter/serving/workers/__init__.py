"""The processes that hold models: started, fed, counted, put to sleep and started again."""
