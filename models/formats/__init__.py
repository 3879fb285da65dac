"""How matrices are stored in fewer than 16 bits, and how products with them are computed."""
