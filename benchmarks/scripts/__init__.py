"""Do unedited training scripts, as people write them, get a true answer from `watch` and `try`?"""
