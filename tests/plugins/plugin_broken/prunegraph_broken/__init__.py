"""Every mistake a plug-in package can make."""
