"""Vec2Face and Vec2Face+: identity vectors to aligned 112 x 112 faces in one forward pass.

Wu et al., "Vec2Face: Scaling Face Dataset Generation with Loosely Constrained Vectors" (ICLR 2025), and "Vec2Face+ for
Face Dataset Generation" (arXiv 2507.17192).
"""
