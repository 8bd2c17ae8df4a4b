"""Do said odds come true? Pairs of recorded trainings, the fit, and its calibration with families left out."""
