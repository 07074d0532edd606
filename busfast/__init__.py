"""busfast: from a folder of medical images to a trained, evaluated, exported classifier. Not a medical device."""

__version__ = "0.1.0"
