"""Dictionary transforms over pure functions: degradation, intensity, geometry."""
