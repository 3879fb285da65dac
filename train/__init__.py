"""Training: the student's SFT and the boundary predictors."""
