"""Laws of motion as pure functions, and bodies followed in time."""
