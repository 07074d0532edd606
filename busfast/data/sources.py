"""What makes a data folder that is not there yet: name -> function(folder, progress=...) that writes it."""

from busfast.data.phantom import write_phantom

SOURCES = {"phantom": write_phantom}
