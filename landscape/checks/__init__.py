"""Is it right on this machine? Checks against closed forms, differences and another library."""
