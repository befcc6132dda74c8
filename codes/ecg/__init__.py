"""Everything importable of the PTB-XL classification pipeline."""
