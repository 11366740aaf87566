"""Inside a Runner of mmengine."""
