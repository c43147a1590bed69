"""How far to trust a volume without knowing the truth: half sets, held-out tilts, residuals, uncertainty.

Every part asks the images of one series alone. What the parts say, by which formulas, and where they mislead is written
in docs/evidence.md.
"""
