"""The denoisers: SE(3)-equivariant networks behind one protocol."""
