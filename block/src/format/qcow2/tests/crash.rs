//! Kills and power cuts at every point, with reordering between flushes.
