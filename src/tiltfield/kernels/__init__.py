"""The hot paths of the fit, each with a plain twin that it is tested against."""
