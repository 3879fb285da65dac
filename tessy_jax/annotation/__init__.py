"""Thinking text to style spans: what boundary predictors are trained on."""
