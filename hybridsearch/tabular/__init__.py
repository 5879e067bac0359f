"""Tables of finished trainings: architectures x rungs x seeds, to search again in seconds."""
